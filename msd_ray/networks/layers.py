"""The layers of our UNets. Where bf16 maps lie with their channels last, on a GPU, kernels of our own compute what
stands between convolutions; everywhere else torch's functions do."""

from functools import cache
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Maps = Tensor | tuple[Tensor, Tensor]
"""Of a batch, [B, C, H, W]; or two that are one, all channels of the first before those of the second."""
AnyMaps = TypeVar("AnyMaps", bound=Maps)
IMAGINED_GPU = False
"""Whether maps without data go the way of those on a GPU, so that their memory can be counted."""


def group_norm(channels: int, eps: float = 1e-5) -> nn.GroupNorm:
    """Group normalisation with at most 32 groups of at least 4 channels."""
    groups = next(g for g in range(min(32, channels // 4), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels, eps)


def convolved(conv: nn.Conv2d, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """conv(x), and its bias [C] where that is not in it yet: what takes the two, `normed` or `added`, adds it on its
    way."""
    if _fused(x):
        return F.conv2d(x, conv.weight, None, conv.stride, conv.padding), conv.bias
    return conv(x), None


def joined(x: Tensor, other: Tensor) -> Maps:
    """Both as one; where our kernels take two, nothing is copied."""
    return (x, other) if _fused(x) and _fused(other) else torch.cat([x, other], dim=1)


def pointwise(conv: nn.Module, x: Maps) -> Tensor:
    """conv(x) for a convolution of single pixels, or the identity."""
    if not isinstance(conv, nn.Conv2d) or not _fused(x):
        out: Tensor = conv(_whole(x))
        return out
    weight = conv.weight.flatten(1)
    if not isinstance(x, tuple):
        return _channels_second(F.linear(_channels_last(x), weight, conv.bias))  # adds its bias on its way
    first, second = (_channels_last(maps) for maps in x)
    at = first.shape[3]
    made = F.linear(first, weight[:, :at], conv.bias)
    both = torch.addmm(made.flatten(0, 2), second.flatten(0, 2), weight[:, at:].t())
    return _channels_second(both.view_as(made))


def self_attention(qkv: Tensor, heads: int) -> Tensor:
    """Each pixel's mean [B, C, H, W] of the values of all, given queries, keys and values [B, 3 C, H, W]."""
    b, c, h, w = qkv.shape
    each = 3, heads, c // 3 // heads
    if not _fused(qkv):
        q, k, v = qkv.reshape(b, *each, h * w).transpose(-1, -2).unbind(1)
        return F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(b, c // 3, h, w)
    q, k, v = (part.transpose(1, 2) for part in _channels_last(qkv).reshape(b, h * w, *each).unbind(2))
    return _channels_second(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h, w, c // 3))


def normed(
    norm: nn.GroupNorm, x: Tensor, affine: Tensor | None = None, *, bias: Tensor | None = None, silu: bool = True
) -> Tensor:
    """silu(norm(x + bias) (1 + scale) + shift) of maps x [B, C, H, W]; affine [B, 2 C]: scale and shift, 0 without it.

    Raises ValueError for a bias where torch's functions compute, whose convolutions have added theirs."""
    if fused := _fused(x):
        how = norm.weight, norm.bias, affine, bias, norm.num_groups, norm.eps, silu
        made: Tensor = fused.FusedNorm.apply(x, None, *how)[0]
        return made
    if bias is not None:
        raise ValueError("torch's convolutions add their bias themselves")
    h: Tensor = norm(x)
    if affine is not None:
        scale, shift = affine[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, h, scale + 1)
    return F.silu(h) if silu else h


def normed_and_kept(norm: nn.GroupNorm, x: AnyMaps, *, silu: bool = True) -> tuple[Tensor, AnyMaps]:
    """silu(norm(x)), and x for what else is made of it: a kernel adds that one's gradient to the norm's on its way."""
    kept: Any
    if not (fused := _fused(x)):
        kept = _whole(x)
        return normed(norm, kept, silu=silu), kept
    maps = x if isinstance(x, tuple) else (x, None)
    how = norm.weight, norm.bias, None, None, norm.num_groups, norm.eps, silu
    made, *kept = fused.FusedNorm.apply(*maps, *how)
    kept = tuple(kept) if isinstance(x, tuple) else kept[0]
    return made, kept


def added(x: Tensor, h: Tensor, bias: Tensor | None) -> Tensor:
    """x + h, and `convolved`'s bias of h."""
    if bias is None:
        return x + h
    made: Tensor = _fused(h).FusedSum.apply(x, h, bias)
    return made


def doubled(x: Tensor) -> Tensor:
    """Maps [B, C, H, W] of twice the height and width, each pixel four times."""
    if fused := _fused(x):
        made: Tensor = fused.Spread.apply(x, 1.0)
        return made
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def halved(x: Tensor) -> Tensor:
    """Maps [B, C, H, W] of half the height and width, means of four pixels."""
    if (fused := _fused(x)) and x.shape[2] % 2 == x.shape[3] % 2 == 0:
        made: Tensor = fused.Gather.apply(x, 0.25)
        return made
    return F.avg_pool2d(x, 2)


def _channels_last(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1)


def _channels_second(maps: Tensor) -> Tensor:
    return maps.permute(0, 3, 1, 2)


def _whole(x: Maps) -> Tensor:
    return torch.cat(x, dim=1) if isinstance(x, tuple) else x


def _fused(x: Maps) -> Any:
    """The module that computes with our kernels, for maps that they take. The compiler makes such ones by itself."""
    if isinstance(x, tuple):
        return _fused(x[0]) if _fused(x[1]) else None
    if not (x.is_cuda or IMAGINED_GPU) or not torch.is_autocast_enabled(x.device.type):
        return None
    if torch.compiler.is_compiling() or not (IMAGINED_GPU or x.is_contiguous(memory_format=torch.channels_last)):
        return None
    return _module() if IMAGINED_GPU or _there() else None


def _module() -> Any:
    from msd_ray.networks import fused_layers  # it imports this module

    return fused_layers


@cache
def _there() -> bool:
    """Whether the kernels' compiler is installed; torch for CUDA brings it, but on Windows."""
    return find_spec("triton") is not None
