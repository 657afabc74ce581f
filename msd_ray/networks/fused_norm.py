"""Group normalisation, modulation and SiLU in one pass over maps [N, C, H, W] that lie with their channels last.

torch's own kernels read such maps by planes: with them, autocast and cuDNN's transposes, a UNet spends most of its time
on moving numbers. Per sample and channel, all of y = silu((norm(x) w + bias) (1 + scale) + shift) is y = silu(a x + b);
so one kernel sums over pixels, one makes a and b of the sums, and one goes over the map. The gradient is made alike.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from msd_ray.networks import norm_kernels as kernels

PIXELS, CHANNELS = 64, 64  # of one tile
PROGRAMS = 1024  # as many at least should sum, so that all of a GPU is busy


def plain(x: Tensor, w: Tensor, bias: Tensor, affine: Tensor | None, groups: int, eps: float, silu: bool) -> Tensor:
    """The same by torch's functions, in fp32; for gradients of gradients, and for tests."""
    h = F.group_norm(x.float(), groups, w.float(), bias.float(), eps)
    if affine is not None:
        scale, shift = affine.float()[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, h, scale + 1)
    return (F.silu(h) if silu else h).to(x.dtype)


class FusedNorm(torch.autograd.Function):
    """y [N, C, H, W] in the type of x; w, bias [C]; affine [N, 2 C] or None: scale and shift."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, bias: Tensor, affine: Tensor | None, groups: int, eps: float, silu: bool
    ) -> Tensor:
        ctx.how = groups, eps, silu
        maps, given = _laid(x), w if affine is None else affine.contiguous()
        n, channels, pixels, splits, tiles = _shape(x)
        sums, line, moments = (_numbers(x, n, *s) for s in ((splits, 2, channels), (2, channels), (groups, 2)))
        per_split, size, y = -(-pixels // splits), _padded(channels // groups), torch.empty_like(maps)
        kernels.sums[n, splits, tiles[1]](maps, sums, pixels, channels, per_split, PIXELS, CHANNELS)
        kernels.line[n, groups](
            sums, w, bias, given, moments, line, pixels, channels, splits, eps, affine is not None, size
        )
        kernels.act[n, *tiles](maps, line, y, pixels, channels, silu, PIXELS, CHANNELS)
        ctx.save_for_backward(x, w, bias, affine, line, moments)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, w, bias, affine, line, moments = ctx.saved_tensors
        groups, _, silu = ctx.how
        if torch.is_grad_enabled():  # somebody wants the gradient of this gradient
            return *_plain_gradients([x, w, bias, affine], ctx, dy), None, None, None
        maps, dy, given = _laid(x), _laid(dy), w if affine is None else affine.contiguous()
        n, channels, pixels, splits, tiles = _shape(x)
        sums, slopes = _numbers(x, n, splits, 2, channels), _numbers(x, n, groups, 2)
        dw, dbias, daffine, dx = (
            _numbers(x, n, channels),
            _numbers(x, n, channels),
            *map(torch.empty_like, (given, maps)),
        )
        per_split, size = -(-pixels // splits), _padded(channels // groups)
        kernels.sums_back[n, splits, tiles[1]](
            maps, dy, line, moments, sums, pixels, channels, groups, per_split, silu, PIXELS, CHANNELS
        )
        kernels.line_back[n, groups](
            sums, w, bias, given, moments, dw, dbias, daffine, slopes, pixels, channels, splits,
            affine is not None, size,
        )  # fmt: skip
        kernels.act_back[n, *tiles](
            maps, dy, line, moments, slopes, dx, pixels, channels, groups, silu, PIXELS, CHANNELS
        )
        own = (dw.sum(0).to(w.dtype), dbias.sum(0).to(bias.dtype)) if ctx.needs_input_grad[1] else (None, None)
        return dx, *own, None if affine is None else daffine, None, None, None


def _plain_gradients(inputs: list[Tensor], ctx: Any, dy: Tensor) -> list[Tensor | None]:
    needs = ctx.needs_input_grad[: len(inputs)]
    wanted = [t for t, needed in zip(inputs, needs, strict=True) if needed]
    x, w, bias, affine = inputs
    found = iter(torch.autograd.grad(plain(x, w, bias, affine, *ctx.how), wanted, dy, create_graph=True))
    return [next(found) if needed else None for needed in needs]


def _laid(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


def _shape(x: Tensor) -> tuple[int, int, int, int, tuple[int, int]]:
    """Samples, channels and pixels; the parts of a map whose sums are made side by side; tiles of a map."""
    n, channels, pixels = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    tiles = -(-pixels // PIXELS), -(-channels // CHANNELS)
    return n, channels, pixels, max(1, min(tiles[0], PROGRAMS // (n * tiles[1]))), tiles


def _padded(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _numbers(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, device=like.device, dtype=torch.float32)
