"""Where, and in which numbers, an optimizer keeps its averages between two steps: beside the weights, in the host's
memory, or in 8 bits."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from msd_ray.extras import needed
from msd_ray.networks import layers
from msd_ray.training.state import Tensors, laid_as

StateKind = Literal["fp32", "host", "int8"]
AVERAGES = ("exp_avg", "exp_avg_sq")
SCALES = ".scales"
BLOCK = 256
"""Numbers that share a scale in 8 bits."""
SMALL = 4096
"""A weight of fewer numbers keeps its averages as they are, as with bitsandbytes' own optimizers."""
in_host: Callable[[], AbstractContextManager[None]] = nullcontext
"""Makes the context in which the host's memory is taken; who counts a GPU's memory puts another here."""


class AverageStore(Protocol):
    """The averages of one optimizer. kept: those of one weight, by the names that a checkpoint has for them. like: the
    weight."""

    def begin(self, like: Tensor) -> Tensors:
        """Zeros."""
        ...

    def load(self, kept: Tensors, like: Tensor) -> Tensors:
        """What any of these stores kept, as this one keeps it."""
        ...

    def take(self, kept: Tensors, like: Tensor) -> Tensors:
        """`AVERAGES` to compute with: as the weight, and on its device."""
        ...

    def put(self, kept: Tensors, moved: Tensors) -> None:
        """Keeps what a step made of those that were taken."""
        ...

    def on_device(self, kept: Tensors) -> Tensors:
        """Those that lie where the weight does."""
        ...


def average_store(kind: StateKind) -> AverageStore:
    """Raises UserError where 8 bits are asked for and bitsandbytes is not installed."""
    stores: dict[StateKind, type[AverageStore]] = {"fp32": _Beside, "host": _Host, "int8": _EightBits}
    return stores[kind]()


class _Beside:
    def begin(self, like: Tensor) -> Tensors:
        return {name: torch.zeros_like(like) for name in AVERAGES}

    def load(self, kept: Tensors, like: Tensor) -> Tensors:
        return {name: laid_as(_plain(kept, name, like), like) for name in AVERAGES}

    def take(self, kept: Tensors, like: Tensor) -> Tensors:
        return {name: kept[name] for name in AVERAGES}

    def put(self, kept: Tensors, moved: Tensors) -> None:
        pass

    def on_device(self, kept: Tensors) -> Tensors:
        return kept


class _Host(_Beside):
    """In memory from which a GPU reads by itself (pinned). Without a GPU this is `_Beside`."""

    def begin(self, like: Tensor) -> Tensors:
        with in_host():
            return {name: _in_host(like).zero_() for name in AVERAGES}

    def load(self, kept: Tensors, like: Tensor) -> Tensors:
        with in_host():
            return {name: _in_host(like).copy_(_plain(kept, name, like)) for name in AVERAGES}

    def take(self, kept: Tensors, like: Tensor) -> Tensors:
        if not _apart(like):
            return super().take(kept, like)
        return {name: torch.empty_like(like).copy_(kept[name], non_blocking=True) for name in AVERAGES}

    def put(self, kept: Tensors, moved: Tensors) -> None:
        with in_host():
            for name, value in moved.items():
                if value is not kept[name]:
                    kept[name].copy_(value)

    def on_device(self, kept: Tensors) -> Tensors:
        return {} if layers.IMAGINED_GPU or any(t.is_pinned() for t in kept.values()) else kept


def _in_host(like: Tensor) -> Tensor:
    return torch.empty_like(like, device="cpu", pin_memory=like.is_cuda)


def _apart(like: Tensor) -> bool:
    """Whether the weight lies on a GPU, if only an imagined one."""
    return like.is_cuda or layers.IMAGINED_GPU


class _EightBits:
    """A byte for each number of an average, in blocks of `BLOCK` with a scale each (arXiv 2110.02861, section 2)."""

    def __init__(self) -> None:
        self._levels = {name: torch.tensor(levels) for name, levels in zip(AVERAGES, byte_levels(), strict=True)}

    def begin(self, like: Tensor) -> Tensors:
        return self._packed({name: torch.zeros_like(like) for name in AVERAGES})

    def load(self, kept: Tensors, like: Tensor) -> Tensors:
        if AVERAGES[0] + SCALES in kept:
            return {name: value.to(like.device) for name, value in kept.items()}
        return self._packed(self.take(kept, like))

    def take(self, kept: Tensors, like: Tensor) -> Tensors:
        return {name: laid_as(_plain(kept, name, like), like) for name in AVERAGES}

    def put(self, kept: Tensors, moved: Tensors) -> None:
        kept |= self._packed(moved)

    def on_device(self, kept: Tensors) -> Tensors:
        return kept

    def _packed(self, averages: Tensors) -> Tensors:
        if averages[AVERAGES[0]].numel() < SMALL:
            return averages
        packed = dict[str, Tensor]()
        for name, value in averages.items():
            levels = self._levels[name] = self._levels[name].to(value.device)
            codes, how = _bitsandbytes().quantize_blockwise(value.float().flatten(), levels, blocksize=BLOCK)
            packed |= {name: codes, name + SCALES: how.absmax}
        return packed


def _plain(kept: Tensors, name: str, like: Tensor) -> Tensor:
    """An average in the weight's numbers, on its device, whichever store kept it."""
    value, scales = kept[name].to(like.device), kept.get(name + SCALES)
    if scales is not None:
        levels = torch.tensor(byte_levels()[AVERAGES.index(name)], device=like.device)
        how = {"absmax": scales.to(like.device), "code": levels, "blocksize": BLOCK}
        value = _bitsandbytes().dequantize_blockwise(value, **how).view(like.shape)
    return value.to(like.dtype)


@cache
def byte_levels() -> tuple[list[float], list[float]]:
    """The shares of a block's largest number that a byte stands for: of a mean, and of a mean square. Raises UserError
    where bitsandbytes is not installed."""
    made = _bitsandbytes().create_dynamic_map
    return made(signed=True).tolist(), made(signed=False).tolist()


def _bitsandbytes() -> Any:
    return needed("bitsandbytes.functional", "int8")
