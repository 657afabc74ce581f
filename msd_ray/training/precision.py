"""The only file that decides in which numbers, and how, networks compute while students train: precision, compiling,
the layout of memory and recomputation."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from msd_ray.diffusion import EDMDenoiser
from msd_ray.diffusion.denoiser import as_it_is
from msd_ray.training.config import TrainingConfig

LARGE = 20_000_000
"""Parameters from which `compile: auto` compiles on a GPU: smaller networks are trained before it pays."""
BACKEND = "inductor"
_VARIANTS = 32
"""Of what is compiled for a block: with gradients, without, and to the input alone, each for one size of batches and,
once another comes, for any."""
_Forward = Callable[..., Any]


def apply(denoiser: EDMDenoiser, training: TrainingConfig) -> EDMDenoiser:
    """The denoiser itself. It and its copies then compute as the recipe's `training` says: "fp32" and "tf32" in the
    type of their input, "bf16" under autocast. The weights keep their type, their names and their layout.

    What a process may do on its GPU (TensorFloat-32, algorithms that are not deterministic) is set for all of it.
    """
    denoiser.around = _bf16 if training.precision == "bf16" else as_it_is
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = training.precision != "fp32"
    if not training.deterministic:
        torch.set_deterministic_debug_mode("default")
    on_gpu, anywhere = _compiles(denoiser, training)
    for block in _blocks(denoiser.network):
        shapes = tuple(p.shape for p in block.parameters())
        block.__class__ = _computing(_plain(type(block)), shapes, on_gpu, anywhere, training.recompute)  # type: ignore[arg-type]
    return denoiser


def takes_one_size(denoiser: EDMDenoiser, device: torch.device) -> bool:
    """Whether all batches of an update should have the same size there, for which the fastest code is compiled."""
    kinds = [type(block) for block in _blocks(denoiser.network)]
    return any(getattr(kind, "compiled_on", {}).get(device.type, False) for kind in kinds)


def _bf16(device_type: str) -> Any:
    return torch.autocast(device_type, dtype=torch.bfloat16)


def _compiles(denoiser: EDMDenoiser, training: TrainingConfig) -> tuple[bool, bool]:
    """Whether it is compiled on a GPU, and elsewhere."""
    if training.compile == "auto":
        return sum(p.numel() for p in denoiser.parameters()) >= LARGE, False
    return training.compile, training.compile


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost repeated parts of a network: what its lists of modules hold, but for torch's own layers."""
    for child in module.children():
        items = list(child) if isinstance(child, nn.ModuleList) else []
        for item in items or [child]:
            if items and not type(item).__module__.startswith("torch.nn"):
                yield item
            else:
                yield from _blocks(item)


def _plain(kind: type[nn.Module]) -> type[nn.Module]:
    """The class that a block had before `apply`."""
    return getattr(kind, "plain", kind)


@cache
def _computing(
    plain: type[nn.Module], shapes: tuple[torch.Size, ...], on_gpu: bool, anywhere: bool, recompute: bool
) -> type[nn.Module]:
    """A class whose modules have the weights of `plain`, by the same names, and compute alike. Copies of a module keep
    its class, and all modules of these shapes share what is compiled: that takes seconds for each."""
    if not (on_gpu or anywhere or recompute):
        return plain
    forward: _Forward = plain.forward
    if on_gpu or anywhere:
        forward = _compiled_where(forward, _compiled(forward), anywhere)
    if recompute:
        forward = _recomputed(forward)
    marks = {"forward": forward, "plain": plain, "compiled_on": {"cuda": on_gpu, "cpu": anywhere}}
    return type(plain.__name__, (plain,), marks)


def _compiled_where(plain: _Forward, compiled: _Forward, anywhere: bool) -> _Forward:
    def forward(self: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        chosen = compiled if x.is_cuda or (anywhere and not x.is_meta) else plain
        return chosen(self, x, *args, **kwargs)

    return forward


def _compiled(plain: _Forward) -> _Forward:
    """Between compiled blocks, maps lie with their channels last, as the convolutions of GPUs want them."""
    import torch._dynamo.config as dynamo  # takes 0.9 s

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
