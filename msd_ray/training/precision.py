"""The only file that decides in which numbers, and how, networks compute while students train: precision, compiling,
the layout of memory, recomputation and replays."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from msd_ray.diffusion import EDMDenoiser
from msd_ray.diffusion.denoiser import as_it_is, direct
from msd_ray.training.config import TrainingConfig
from msd_ray.training.replays import Replays

BACKEND = "inductor"
_VARIANTS = 32
"""Of what is compiled for a block: with gradients, without, and to the input alone, each for one size of batches and,
once another comes, for any."""
_ROUNDED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose weights autocast rounds. Their biases are read elsewhere too."""
_Forward = Callable[..., Any]


def apply(denoiser: EDMDenoiser, training: TrainingConfig) -> EDMDenoiser:
    """The denoiser itself. It and its copies then compute as the recipe's `training` says: "fp32" and "tf32" in the
    type of their input, "bf16" under autocast, where maps, and so the weights of convolutions, lie with their channels
    last. The weights keep their type, their values and their names.

    What a process may do on its GPU (TensorFloat-32, algorithms that are not deterministic) is set for all of it.
    """
    rough = training.precision == "bf16"
    denoiser.around, denoiser.run = _bf16 if rough else as_it_is, Replays() if training.replay else direct
    denoiser.to(memory_format=torch.channels_last if rough else torch.contiguous_format)  # type: ignore[call-overload]
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = training.precision != "fp32"
    torch.backends.cudnn.benchmark = not training.deterministic  # the fastest algorithm may be another each time
    if not training.deterministic:
        torch.set_deterministic_debug_mode("default")
    for block in blocks(denoiser.network):
        shapes = tuple(p.shape for p in block.parameters())
        block.__class__ = _computing(_plain(type(block)), shapes, training.compile, training.recompute)  # type: ignore[arg-type]
    return denoiser


def apply_frozen(denoiser: EDMDenoiser, training: TrainingConfig) -> EDMDenoiser:
    """As `apply`, of one that never trains. Under autocast its layers keep their weights in bf16, to which it would
    round them each time: the same numbers from half the memory."""
    apply(denoiser, training)
    if training.precision == "bf16":
        for layer in denoiser.network.modules():
            if isinstance(layer, _ROUNDED):
                layer.weight.data = layer.weight.data.to(torch.bfloat16)
    return denoiser


def rounded_to(training: TrainingConfig) -> torch.dtype | None:
    """The type that networks compute in where that is not their weights' own."""
    return torch.bfloat16 if training.precision == "bf16" else None


def runs_as_written(training: TrainingConfig) -> bool:
    """Whether torch runs each operation by itself, so that they can be counted."""
    return not (training.compile or training.replay)


def takes_one_size(training: TrainingConfig) -> bool:
    """Whether all batches of an update should have the same size, for which the fastest code is compiled."""
    return training.compile


@contextmanager
def _bf16(x: Tensor) -> Iterator[Tensor]:
    here = torch.cuda.device_of(x)  # type: ignore[no-untyped-call]  # kernels of ours start on the current device
    with here, torch.autocast(x.device.type, dtype=torch.bfloat16):
        yield _channels_last(x)


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost repeated parts of a network: what its lists of modules hold, but for torch's own layers."""
    for child in module.children():
        items = list(child) if isinstance(child, nn.ModuleList) else []
        for item in items or [child]:
            if items and not type(item).__module__.startswith("torch.nn"):
                yield item
            else:
                yield from blocks(item)


def _plain(kind: type[nn.Module]) -> type[nn.Module]:
    """The class that a block had before `apply`."""
    return getattr(kind, "plain", kind)


@cache
def _computing(
    plain: type[nn.Module], shapes: tuple[torch.Size, ...], compiles: bool, recompute: bool
) -> type[nn.Module]:
    """A class whose modules have the weights of `plain`, by the same names, and compute alike. Copies of a module keep
    its class, and all modules of these shapes share what is compiled: that takes seconds for each."""
    if not (compiles or recompute):
        return plain
    forward: _Forward = _compiled_once(plain.forward) if compiles else plain.forward
    return type(plain.__name__, (plain,), {"forward": _recomputed(forward) if recompute else forward, "plain": plain})


def _compiled_once(plain: _Forward) -> _Forward:
    compiled = cache(partial(_compiled, plain))  # when it is needed: importing the compiler takes 0.9 s

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        without_data = any(getattr(value, "is_meta", False) for value in (*args, *kwargs.values()))
        return (plain if without_data else compiled())(self, *args, **kwargs)

    return forward


def _compiled(plain: _Forward) -> _Forward:
    """Between compiled blocks, maps lie with their channels last, as the convolutions of GPUs want them."""
    import torch._dynamo.config as dynamo

    dynamo.recompile_limit = max(dynamo.recompile_limit, _VARIANTS)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return _channels_last(plain(self, *_channels_last(args), **kwargs))

    forward.__code__ = forward.__code__.replace()  # torch keeps compiled code by this object; few share one
    compiled: _Forward = torch.compile(forward, backend=BACKEND)
    return compiled


def _channels_last(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)([_channels_last(item) for item in value])
    if isinstance(value, Tensor) and value.ndim == 4:
        return value.contiguous(memory_format=torch.channels_last)
    return value


def _recomputed(forward: _Forward) -> _Forward:
    """Keeps a block's input for the backward pass, in place of all that it computes."""

    def recomputing(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return recomputing
