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

    def summing(self, splits: int) -> tuple[int, int, int]:
        """The grid of programs that sum over so many parts of a map."""
        return self.n, splits, self.tiles[2]

    @property
    def per_split(self) -> int:
        return -(-self.pixels // self.splits)

    def numbers(self, like: Tensor, *each: int) -> Tensor:
        return torch.empty(self.n, *each, device=like.device, dtype=torch.float32)

    def sums(self, like: Tensor) -> Tensor:
        return self.numbers(like, self.splits, 2, self.channels)


class FusedNorm(torch.autograd.Function):
    """y [N, C, H, W] in the type of x, and x itself, whose gradient is added on the way; other: None, or maps that lie
    behind x in the channels, and are returned as x is. w, shift [C]: the norm's own; affine [N, 2 C] or None: scale and
    shift; bias [C] or None: what x lacks."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        other: Tensor | None,
        w: Tensor,
        shift: Tensor,
        affine: Tensor | None,
        bias: Tensor | None,
        groups: int,
        eps: float,
        silu: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        ctx.how = groups, eps, silu
        ctx.set_materialize_grads(False)
        parts, s, kernels = _parts(x, other), _shape(x, other), _kernels(x)
        sums, line, rstds = s.sums(x), s.numbers(x, 4, s.channels), s.numbers(x, groups)
        for maps, at, part in parts:
            kernels.sum_up[part.summing(s.splits)](
                maps, sums, s.pixels, part.channels, at, s.channels, s.per_split, PIXELS, CHANNELS
            )  # fmt: skip
        kernels.draw_line[s.n, groups](
            sums, w, shift, _given(affine, w), _given(bias, w), rstds, line, s.pixels, s.channels, s.splits, eps,
            affine is not None, bias is not None, _padded(s.channels // groups),
        )  # fmt: skip
        y = _maps(x, s.channels, *x.shape[2:])
        for maps, at, part in parts:
            kernels.act[part.tiles](maps, line, y, s.pixels, part.channels, at, s.channels, silu, PIXELS, CHANNELS)
        ctx.save_for_backward(x, other, w, shift, affine, bias, line, rstds)
        return y, x, other

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *beside: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, line, rstds = ctx.saved_tensors
        if dy is None:
            return *beside, *[None] * 7
        if torch.is_grad_enabled():  # somebody wants the gradient of this gradient
            return *_plain_gradients(inputs, ctx, dy, beside), None, None, None
        (x, other, w, shift, affine, bias), (groups, _, silu) = inputs, ctx.how
        parts, dy, s, given, kernels = _parts(x, other), _laid(dy), _shape(x, other), _given(affine, w), _kernels(x)
        sums, owned, slopes = s.sums(x), s.numbers(x, 3, s.channels), s.numbers(x, 2, s.channels)
        daffine, dx = torch.empty_like(given), [torch.empty_like(maps) for maps, *_ in parts]
        for maps, at, part in parts:
            kernels.sum_up_back[part.summing(s.splits)](
                maps, dy, line, sums, s.pixels, part.channels, at, s.channels, s.per_split, silu, PIXELS, CHANNELS
            )  # fmt: skip
        kernels.draw_line_back[s.n, groups](
            sums, w, shift, given, rstds, line, owned, daffine, slopes, s.pixels, s.channels, s.splits,
            affine is not None, _padded(s.channels // groups),
        )  # fmt: skip
        for (maps, at, part), more, d in zip(parts, beside, dx, strict=False):
            kernels.act_back[part.tiles](
                maps, dy, line, slopes, maps if more is None else _laid(more), d, s.pixels, part.channels, at,
                s.channels, silu, more is not None, PIXELS, CHANNELS,
            )  # fmt: skip
        dw, dshift, dbias = owned.sum(0) if any(ctx.needs_input_grad[i] for i in (2, 3, 5)) else (None, None, None)
        own = dw, dshift, None if affine is None else daffine, None if bias is None else dbias
        return dx[0], None if other is None else dx[1], *own, *[None] * 3


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
    other: Tensor | None,
    w: Tensor,
    shift: Tensor,
    affine: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float,
    silu: bool,
) -> Tensor:
    """The y of FusedNorm, by torch's functions in fp32; for gradients of gradients, and for tests."""
    maps = x if other is None else torch.cat([x, other], dim=1)
    moved = maps.float() if bias is None else maps.float() + bias.float()[:, None, None]
    h = F.group_norm(moved, groups, w.float(), shift.float(), eps)
    if affine is not None:
        scale, more = affine.float()[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(more, h, scale + 1)
    return (F.silu(h) if silu else h).to(x.dtype)


def _plain_gradients(
    inputs: list[Tensor], ctx: Any, dy: Tensor, beside: tuple[Tensor | None, ...]
) -> list[Tensor | None]:
    needs = ctx.needs_input_grad[: len(inputs)]
    wanted = [t for t, needed in zip(inputs, needs, strict=True) if needed]
    x, other, w, shift, affine, bias = inputs
    made = plain_norm(x, other, w, shift, affine, bias, *ctx.how)
    found = iter(torch.autograd.grad(made, wanted, dy, create_graph=True))
    own = [next(found) if needed else None for needed in needs]
    maps = [d if more is None or d is None else d + more for d, more in zip(own, beside, strict=False)]
    return maps + own[len(maps) :]


def _resampled(kernel: str, x: Tensor, factor: float, height: int, width: int) -> Tensor:
    y = _maps(x, x.shape[1], height, width)
    s = _shape(y)
    getattr(_kernels(x), kernel)[s.tiles](_laid(x), y, factor, width, s.pixels, s.channels, PIXELS, CHANNELS)
    return y


def _over_pixels(maps: Tensor) -> Tensor:
    """The sum over samples and pixels, [C]."""
    if torch.is_grad_enabled():
        return maps.float().sum((0, 2, 3))
    maps, s = _laid(maps), _shape(maps)
    sums = s.sums(maps)
    grid = s.summing(s.splits)
    _kernels(maps).sum_up[grid](maps, sums, s.pixels, s.channels, 0, s.channels, s.per_split, PIXELS, CHANNELS)
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


def _maps(like: Tensor, *shape: int) -> Tensor:
    """Empty ones of this shape [C, H, W], as many as `like`."""
    how: Any = {"device": like.device, "dtype": like.dtype, "memory_format": torch.channels_last}
    maps: Tensor = torch.empty(len(like), *shape, **how)
    return maps


def _shape(maps: Tensor, other: Tensor | None = None) -> _Shape:
    """Of both as of one."""
    n, channels, height, width = maps.shape
    return _Shape(n, channels + (0 if other is None else other.shape[1]), height * width)


def _parts(x: Tensor, other: Tensor | None) -> list[tuple[Tensor, int, _Shape]]:
    """The maps of a norm, the channel at which each begins, and its own shape."""
    first = _laid(x), 0, _shape(x)
    return [first] if other is None else [first, (_laid(other), x.shape[1], _shape(other))]


def _padded(size: int) -> int:
    """The next power of 2."""
    return 1 << (size - 1).bit_length()
