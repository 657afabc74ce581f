"""PyTorch code run without data: every operation learns the shapes of its results and no more, so that floating-point
operations and bytes can be counted for networks that this machine could not hold."""

import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from msd_ray.networks import layers
from msd_ray.training import optimizer_state
from msd_ray.training.utilisation import flops_of

Seen = Callable[[Any, tuple[Any, ...], dict[str, Any], float, int], None]
"""Told of each operation: which, its arguments, its floating-point operations, and the bytes that it moves."""
_READ = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)


class Tally(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts while operations run.

    flops: floating-point operations of matrix products, convolutions and attention, two for each product that is added.
    moved: bytes that all other operations read and write. held, peak: bytes of the tensors that are there now, and of
    those that were when they were most. Code that asks for the value of a number is told one (or true).
    """

    def __init__(self, seen: Seen | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops, self.moved, self.held, self.peak = 0.0, 0, 0, 0
        self._seen, self._aside = seen, False
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._bytes: dict[int, int] = {}

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is made meanwhile lies in the memory of another process, and is not held here."""
        before, self._aside = self._aside, True
        yield
        self._aside = before

    def divide(self, tensor: Tensor, among: int) -> None:
        """Of what lies behind the tensor, this process holds one of so many parts."""
        key, whole = id(tensor.untyped_storage()), tensor.untyped_storage().nbytes()
        if key in self._bytes:
            self.held += whole // among - self._bytes[key]
            self._bytes[key] = whole // among

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in _READ:
            return _one(args[0])
        out = func(*args, **given)
        self._count(func, args, given, out)
        if not self._aside:
            self._hold(out)
        return out

    def _count(self, func: Any, args: tuple[Any, ...], given: dict[str, Any], out: Any) -> None:
        found = flops_of(func, args, given, out)
        flops = found or 0.0
        computes = found is None and not func.is_view and _tensors(out)
        moved = nbytes_in((args, given)) + nbytes_in(out) if computes else 0
        self.flops, self.moved = self.flops + flops, self.moved + moved
        if self._seen:
            self._seen(func, args, given, flops, moved)

    def _hold(self, out: Any) -> None:
        for tensor in _tensors(out):
            storage = tensor.untyped_storage()
            key, known = id(storage), self._storages.get(id(storage))
            if known is None or known() is not storage:
                self._storages[key] = weakref.ref(storage, partial(self._release, key))
                self._bytes[key] = storage.nbytes()
                self.held += storage.nbytes()
                self.peak = max(self.peak, self.held)

    def _release(self, key: int, gone: object) -> None:
        if self._storages.get(key) is gone:
            self.held -= self._bytes.pop(key)
            del self._storages[key]


class _Shapes(FakeTensorMode):  # type: ignore[no-untyped-call]
    """A copy of a module is made of tensors of the same mode."""

    def __deepcopy__(self, memo: object) -> "_Shapes":
        return self


@contextmanager
def without_data(tally: Tally, gpu: bool = False) -> Iterator[None]:
    """Tensors made inside have no memory. All of them are on the CPU, so that modules need not be moved, which those
    without memory cannot. gpu: whether networks hold what they hold on a GPU."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        unmoved = patch.object(nn.Module, "to", lambda module, *_, **__: module)
        elsewhere = patch.object(optimizer_state, "in_host", tally.aside if gpu else nullcontext)
        with unmoved, elsewhere, patch.object(layers, "IMAGINED_GPU", gpu), _Shapes(), tally:
            yield


def _one(of: Tensor) -> float | int | bool:
    if of.dtype is torch.bool:
        return True
    return 1.0 if of.dtype.is_floating_point else 1


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def nbytes_in(tree: Any) -> int:
    """Of all tensors in it, which need not have any memory."""
    return sum(tensor.nbytes for tensor in _tensors(tree))
