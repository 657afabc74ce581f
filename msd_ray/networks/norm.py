"""Group normalisation with what follows it in the blocks of our networks."""

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def group_norm(channels: int, eps: float = 1e-5) -> nn.GroupNorm:
    """Group normalisation with at most 32 groups of at least 4 channels."""
    groups = next(g for g in range(min(32, channels // 4), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels, eps)


def normed(norm: nn.GroupNorm, x: Tensor, affine: Tensor | None = None, silu: bool = True) -> Tensor:
    """silu(norm(x) (1 + scale) + shift) of maps x [B, C, H, W]; affine [B, 2 C]: scale and shift, 0 without it.

    Where bf16 maps lie with their channels last, on a GPU, kernels of our own make all of it at once, and keep nothing
    but x for the backward pass.
    """
    if _on_gpu(x) and (fused := _fused()):
        made: Tensor = fused.apply(x, norm.weight, norm.bias, affine, norm.num_groups, norm.eps, silu)
        return made
    h: Tensor = norm(x)
    if affine is not None:
        scale, shift = affine[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, h, scale + 1)
    return F.silu(h) if silu else h


def _on_gpu(x: Tensor) -> bool:
    last = x.is_cuda and torch.is_autocast_enabled("cuda") and x.is_contiguous(memory_format=torch.channels_last)
    return last and not torch.compiler.is_compiling()  # the compiler fuses it by itself


@cache
def _fused() -> Any:
    """The kernels, where their compiler is installed: with torch for CUDA it is, but on Windows."""
    if not find_spec("triton"):
        return None
    from msd_ray.networks.fused_norm import FusedNorm  # when it is needed: starts Triton

    return FusedNorm
