"""What stands between the convolutions of a UNet, each in one pass over maps [N, C, H, W] that lie with their channels
last: the bias before a norm, the norm, modulation and SiLU; the sum that ends a residual block; halving and doubling.

torch's own kernels read such maps by planes, one by one: with them, autocast's fp32 and cuDNN's transposes, a UNet
spends most of its time on moving numbers. Here a kernel sums over pixels, one makes of the sums what each channel of a
sample is scaled and shifted by, and one goes over the map; the gradient is made alike.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from msd_ray.networks import layers

PIXELS, CHANNELS = 64, 64  # of one tile
PROGRAMS = 1024  # as many at least should sum, so that all of a GPU is busy


@dataclass(frozen=True)
class _Shape:
    n: int
    channels: int
    pixels: int

    @property
    def tiles(self) -> tuple[int, int, int]:
        """The grid of programs that go over a map."""
        return self.n, -(-self.pixels // PIXELS), -(-self.channels // CHANNELS)

    @property
    def splits(self) -> int:
        """Parts of a map whose sums are made side by side."""
        _, down, across = self.tiles
        return max(1, min(down, PROGRAMS // (self.n * across)))

    @property
    def summing(self) -> tuple[int, int, int]:
        return self.n, self.splits, self.tiles[2]

    @property
    def per_split(self) -> int:
        return -(-self.pixels // self.splits)

    def numbers(self, like: Tensor, *each: int) -> Tensor:
        return torch.empty(self.n, *each, device=like.device, dtype=torch.float32)

    def sums(self, like: Tensor) -> Tensor:
        return self.numbers(like, self.splits, 2, self.channels)


class FusedNorm(torch.autograd.Function):
    """y [N, C, H, W] in the type of x; w, shift [C]: the norm's own; affine [N, 2 C] or None: scale and shift; bias [C]
    or None: what x lacks."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w: Tensor,
        shift: Tensor,
        affine: Tensor | None,
        bias: Tensor | None,
        groups: int,
        eps: float,
        silu: bool,
    ) -> Tensor:
        ctx.how, maps, s = (groups, eps, silu), _laid(x), _shape(x)
        kernels = _kernels(x)
        sums, line, rstds, y = s.sums(x), s.numbers(x, 4, s.channels), s.numbers(x, groups), torch.empty_like(maps)
        kernels.sum_up[s.summing](maps, sums, s.pixels, s.channels, s.per_split, PIXELS, CHANNELS)
        kernels.draw_line[s.n, groups](
            sums, w, shift, _given(affine, w), _given(bias, w), rstds, line, s.pixels, s.channels, s.splits, eps,
            affine is not None, bias is not None, _padded(s.channels // groups),
        )  # fmt: skip
        kernels.act[s.tiles](maps, line, y, s.pixels, s.channels, silu, PIXELS, CHANNELS)
        ctx.save_for_backward(x, w, shift, affine, bias, line, rstds)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, line, rstds = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants the gradient of this gradient
            return *_plain_gradients(inputs, ctx, dy), None, None, None
        (x, w, shift, affine, bias), (groups, _, silu) = inputs, ctx.how
        maps, dy, s, given = _laid(x), _laid(dy), _shape(x), _given(affine, w)
        kernels = _kernels(x)
        sums, owned, slopes = s.sums(x), s.numbers(x, 3, s.channels), s.numbers(x, 2, s.channels)
        dx, daffine = torch.empty_like(maps), torch.empty_like(given)
        kernels.sum_up_back[s.summing](
            maps, dy, line, sums, s.pixels, s.channels, s.per_split, silu, PIXELS, CHANNELS
        )  # fmt: skip
        kernels.draw_line_back[s.n, groups](
            sums, w, shift, given, rstds, line, owned, daffine, slopes, s.pixels, s.channels, s.splits,
            affine is not None, _padded(s.channels // groups),
        )  # fmt: skip
        kernels.act_back[s.tiles](maps, dy, line, slopes, dx, s.pixels, s.channels, silu, PIXELS, CHANNELS)
        dw, dshift, dbias = owned.sum(0) if any(ctx.needs_input_grad[i] for i in (1, 2, 4)) else (None, None, None)
        return dx, dw, dshift, daffine if affine is not None else None, dbias if bias is not None else None, *[None] * 3


class FusedSum(torch.autograd.Function):
    """x + h + bias of maps x and h [N, C, H, W] and a bias [C]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h: Tensor, bias: Tensor) -> Tensor:
        y, s = torch.empty_like(_laid(h), dtype=torch.promote_types(x.dtype, h.dtype)), _shape(h)
        _kernels(x).add[s.tiles](_laid(x), _laid(h), bias, y, s.pixels, s.channels, PIXELS, CHANNELS)
        ctx.types = x.dtype, h.dtype, bias.dtype
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        dx, dh = (dy.to(kind) for kind in ctx.types[:2])
        return dx, dh, _over_pixels(dy).to(ctx.types[2]) if ctx.needs_input_grad[2] else None


class Spread(torch.autograd.Function):
    """Maps [N, C, 2 H, 2 W] of x [N, C, H, W] times a factor, each pixel four times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return _resampled("spread", x, factor, 2 * x.shape[2], 2 * x.shape[3])

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return Gather.apply(dy, ctx.factor), None  # type: ignore[no-untyped-call]


class Gather(torch.autograd.Function):
    """Maps [N, C, H, W] of sums of four pixels of x [N, C, 2 H, 2 W], times a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return _resampled("gather", x, factor, x.shape[2] // 2, x.shape[3] // 2)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return Spread.apply(dy, ctx.factor), None  # type: ignore[no-untyped-call]


def plain_norm(
    x: Tensor,
    w: Tensor,
    shift: Tensor,
    affine: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float,
    silu: bool,
) -> Tensor:
    """What FusedNorm computes, by torch's functions in fp32; for gradients of gradients, and for tests."""
    moved = x.float() if bias is None else x.float() + bias.float()[:, None, None]
    h = F.group_norm(moved, groups, w.float(), shift.float(), eps)
    if affine is not None:
        scale, more = affine.float()[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(more, h, scale + 1)
    return (F.silu(h) if silu else h).to(x.dtype)


def _plain_gradients(inputs: list[Tensor], ctx: Any, dy: Tensor) -> list[Tensor | None]:
    needs = ctx.needs_input_grad[: len(inputs)]
    wanted = [t for t, needed in zip(inputs, needs, strict=True) if needed]
    x, w, shift, affine, bias = inputs
    made = plain_norm(x, w, shift, affine, bias, *ctx.how)
    found = iter(torch.autograd.grad(made, wanted, dy, create_graph=True))
    return [next(found) if needed else None for needed in needs]


def _resampled(kernel: str, x: Tensor, factor: float, height: int, width: int) -> Tensor:
    y = torch.empty(*x.shape[:2], height, width, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    s = _shape(y)
    getattr(_kernels(x), kernel)[s.tiles](_laid(x), y, factor, width, s.pixels, s.channels, PIXELS, CHANNELS)
    return y


def _over_pixels(maps: Tensor) -> Tensor:
    """The sum over samples and pixels, [C]."""
    if torch.is_grad_enabled():
        return maps.float().sum((0, 2, 3))
    maps, s = _laid(maps), _shape(maps)
    sums = s.sums(maps)
    _kernels(maps).sum_up[s.summing](maps, sums, s.pixels, s.channels, s.per_split, PIXELS, CHANNELS)
    return sums[:, :, 0].sum((0, 1))


class _NoKernels:
    """For tensors without data, whose shapes and memory alone are wanted."""

    def __getattr__(self, kernel: str) -> "_NoKernels":
        return self

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *_: None


def _kernels(like: Tensor) -> Any:
    if layers.IMAGINED_GPU and not like.is_cuda:
        return _NoKernels()
    from msd_ray.networks import kernels  # when they are needed: starts Triton

    return kernels


def _laid(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


def _given(tensor: Tensor | None, stand_in: Tensor) -> Tensor:
    """A tensor for a kernel, which does not read the stand-in."""
    return stand_in if tensor is None else tensor.contiguous()


def _shape(maps: Tensor) -> _Shape:
    return _Shape(maps.shape[0], maps.shape[1], maps.shape[2] * maps.shape[3])


def _padded(size: int) -> int:
    """The next power of 2."""
    return 1 << (size - 1).bit_length()
