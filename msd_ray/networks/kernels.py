"""Triton's kernels of `fused_layers`. Maps lie with channels last, [N, pixels, C]; sums are fp32, nothing is random,
and each sum has its fixed order. Of a tile: P pixels, C channels. G: the channels of a group, padded to a power of 2.
A norm may go over several maps as over one of all their channels: `channels` then are those of the map, `width` those
of all, and the map's begin at the channel `at`.

With x' = x + bias, the output of a norm is silu(u) for u = a x + b, per sample and channel. line [N, 4, C]: a, b,
center and drift, where x' - mean = x - center, and drift is the sum of that over pixels.
"""

import triton
import triton.language as tl


@triton.jit
def d_silu(u):
    s = tl.sigmoid(u)
    return s * (1 + u * (1 - s))


@triton.jit
def totals(sums, n, c, inside, channels, splits, G: tl.constexpr):
    """Both sums over all splits, [G]."""
    first, second = tl.zeros([G], tl.float32), tl.zeros([G], tl.float32)
    for split in range(splits):
        at = sums + (n * splits + split) * 2 * channels + c
        first += tl.load(at, mask=inside, other=0.0)
        second += tl.load(at + channels, mask=inside, other=0.0)
    return first, second


@triton.jit
def sum_up(x, sums, pixels, channels, at, width, per_split, P: tl.constexpr, C: tl.constexpr):
    """Of x and x^2 over the pixels of one split: sums [N, splits, 2, width]."""
    n, split, splits = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    c = tl.program_id(2) * C + tl.arange(0, C)
    first, second = tl.zeros([P, C], tl.float32), tl.zeros([P, C], tl.float32)
    for start in range(0, per_split, P):
        p = split * per_split + start + tl.arange(0, P)
        inside = (p < tl.minimum(pixels, (split + 1) * per_split))[:, None] & (c < channels)[None, :]
        v = tl.load(x + (n * pixels + p)[:, None] * channels + c[None, :], mask=inside, other=0.0).to(tl.float32)
        first += v
        second += v * v
    out = sums + (n * splits + split) * 2 * width + at + c
    tl.store(out, tl.sum(first, 0), mask=c < channels)
    tl.store(out + width, tl.sum(second, 0), mask=c < channels)


@triton.jit
def draw_line(
    sums, w, shift, affine, bias, rstds, line, pixels, channels, splits, eps,
    AFFINE: tl.constexpr, BIAS: tl.constexpr, G: tl.constexpr,
):  # fmt: skip
    """Of one group: its part of line, and of rstds [N, groups], 1 / standard deviation."""
    n, group, groups = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    size = channels // groups
    inside = tl.arange(0, G) < size
    c = group * size + tl.arange(0, G)
    first, second = totals(sums, n, c, inside, channels, splits, G)
    moved = tl.zeros([G], tl.float32)
    if BIAS:
        moved = tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)
    count = pixels * size
    mean = tl.sum(first + pixels * moved) / count
    square = tl.sum(second + 2 * moved * first + pixels * moved * moved) / count
    rstd = 1 / tl.sqrt(tl.maximum(square - mean * mean, 0.0) + eps)
    a = tl.load(w + c, mask=inside).to(tl.float32) * rstd
    b = tl.load(shift + c, mask=inside).to(tl.float32) - mean * a
    if AFFINE:
        scale = 1 + tl.load(affine + n * 2 * channels + c, mask=inside).to(tl.float32)
        a, b = a * scale, b * scale + tl.load(affine + n * 2 * channels + channels + c, mask=inside).to(tl.float32)
    center = mean - moved
    at = line + n * 4 * channels + c
    tl.store(rstds + n * groups + group, rstd)
    tl.store(at, a, mask=inside)
    tl.store(at + channels, b + a * moved, mask=inside)
    tl.store(at + 2 * channels, center, mask=inside)
    tl.store(at + 3 * channels, first - pixels * center, mask=inside)


@triton.jit
def act(x, line, y, pixels, channels, at, width, SILU: tl.constexpr, P: tl.constexpr, C: tl.constexpr):
    """y [N, pixels, width] = silu(a x + b)."""
    n, p = tl.program_id(0).to(tl.int64), tl.program_id(1) * P + tl.arange(0, P)
    c = tl.program_id(2) * C + tl.arange(0, C)
    pixel, inside = (n * pixels + p)[:, None], (p < pixels)[:, None] & (c < channels)[None, :]
    a = tl.load(line + n * 4 * width + at + c, mask=c < channels)
    b = tl.load(line + n * 4 * width + width + at + c, mask=c < channels)
    u = tl.load(x + pixel * channels + c[None, :], mask=inside).to(tl.float32) * a[None, :] + b[None, :]
    if SILU:
        u = u * tl.sigmoid(u)
    tl.store(y + pixel * width + at + c[None, :], u.to(y.dtype.element_ty), mask=inside)


@triton.jit
def sum_up_back(
    x, dy, line, sums, pixels, channels, at, width, per_split, SILU: tl.constexpr, P: tl.constexpr, C: tl.constexpr
):  # fmt: skip
    """Of du and du (x - center) over the pixels of one split: sums [N, splits, 2, width]."""
    n, split, splits = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    c = tl.program_id(2) * C + tl.arange(0, C)
    at_line = line + n * 4 * width + at + c
    a, b = tl.load(at_line, mask=c < channels), tl.load(at_line + width, mask=c < channels)
    center = tl.load(at_line + 2 * width, mask=c < channels)
    first, second = tl.zeros([P, C], tl.float32), tl.zeros([P, C], tl.float32)
    for start in range(0, per_split, P):
        p = split * per_split + start + tl.arange(0, P)
        inside = (p < tl.minimum(pixels, (split + 1) * per_split))[:, None] & (c < channels)[None, :]
        pixel = (n * pixels + p)[:, None]
        v = tl.load(x + pixel * channels + c[None, :], mask=inside, other=0.0).to(tl.float32)
        du = tl.load(dy + pixel * width + at + c[None, :], mask=inside, other=0.0).to(tl.float32)
        if SILU:
            du = du * d_silu(v * a[None, :] + b[None, :])
        first += du
        second += du * (v - center[None, :])
    out = sums + (n * splits + split) * 2 * width + at + c
    tl.store(out, tl.sum(first, 0), mask=c < channels)
    tl.store(out + width, tl.sum(second, 0), mask=c < channels)


@triton.jit
def draw_line_back(
    sums, w, shift, affine, rstds, line, owned, daffine, slopes, pixels, channels, splits,
    AFFINE: tl.constexpr, G: tl.constexpr,
):  # fmt: skip
    """Of one group: owned [N, 3, C], the gradients of w, shift and bias; daffine [N, 2 C]; and slopes [N, 2, C], with
    which dx = a du + slopes_0 + slopes_1 (x - center)."""
    n, group, groups = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    size = channels // groups
    inside = tl.arange(0, G) < size
    c = group * size + tl.arange(0, G)
    first, second = totals(sums, n, c, inside, channels, splits, G)
    at_line = line + n * 4 * channels + c
    a, drift = tl.load(at_line, mask=inside), tl.load(at_line + 3 * channels, mask=inside)
    rstd = tl.load(rstds + n * groups + group)
    weight = tl.load(w + c, mask=inside, other=0.0).to(tl.float32)
    dbias = a * first
    second = second * rstd
    if AFFINE:
        at = n * 2 * channels + c
        scale = 1 + tl.load(affine + at, mask=inside, other=0.0).to(tl.float32)
        dscale = weight * second + tl.load(shift + c, mask=inside, other=0.0).to(tl.float32) * first
        tl.store(daffine + at, dscale.to(daffine.dtype.element_ty), mask=inside)
        tl.store(daffine + at + channels, first.to(daffine.dtype.element_ty), mask=inside)
        first, second = first * scale, second * scale
    slope0 = -rstd * tl.sum(weight * first) / (pixels * size)
    slope1 = -rstd * rstd * tl.sum(weight * second) / (pixels * size)
    out = owned + n * 3 * channels + c
    tl.store(out, second, mask=inside)
    tl.store(out + channels, first, mask=inside)
    tl.store(out + 2 * channels, dbias + pixels * slope0 + slope1 * drift, mask=inside)
    at_slopes, none = slopes + n * 2 * channels + c, tl.zeros([G], tl.float32)
    tl.store(at_slopes, none + slope0, mask=inside)
    tl.store(at_slopes + channels, none + slope1, mask=inside)


@triton.jit
def act_back(
    x, dy, line, slopes, beside, dx, pixels, channels, at, width,
    SILU: tl.constexpr, BESIDE: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """dx = a du + slopes_0 + slopes_1 (x - center) + beside."""
    n, p = tl.program_id(0).to(tl.int64), tl.program_id(1) * P + tl.arange(0, P)
    c = tl.program_id(2) * C + tl.arange(0, C)
    pixel, inside = (n * pixels + p)[:, None], (p < pixels)[:, None] & (c < channels)[None, :]
    at_line, at_slopes = line + n * 4 * width + at + c, slopes + n * 2 * width + at + c
    a, center = tl.load(at_line, mask=c < channels), tl.load(at_line + 2 * width, mask=c < channels)
    slope0, slope1 = tl.load(at_slopes, mask=c < channels), tl.load(at_slopes + width, mask=c < channels)
    v = tl.load(x + pixel * channels + c[None, :], mask=inside, other=0.0).to(tl.float32)
    du = tl.load(dy + pixel * width + at + c[None, :], mask=inside, other=0.0).to(tl.float32)
    if SILU:
        b = tl.load(at_line + width, mask=c < channels)
        du = du * d_silu(v * a[None, :] + b[None, :])
    d = a[None, :] * du + slope0[None, :] + slope1[None, :] * (v - center[None, :])
    if BESIDE:
        d += tl.load(beside + pixel * channels + c[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(dx + pixel * channels + c[None, :], d.to(dx.dtype.element_ty), mask=inside)


@triton.jit
def add(x, h, bias, y, pixels, channels, P: tl.constexpr, C: tl.constexpr):
    """y = x + h + bias."""
    n, p = tl.program_id(0).to(tl.int64), tl.program_id(1) * P + tl.arange(0, P)
    c = tl.program_id(2) * C + tl.arange(0, C)
    at, inside = (n * pixels + p)[:, None] * channels + c[None, :], (p < pixels)[:, None] & (c < channels)[None, :]
    moved = tl.load(h + at, mask=inside).to(tl.float32) + tl.load(bias + c, mask=c < channels).to(tl.float32)[None, :]
    tl.store(y + at, (tl.load(x + at, mask=inside).to(tl.float32) + moved).to(y.dtype.element_ty), mask=inside)


@triton.jit
def spread(x, y, factor, width, pixels, channels, P: tl.constexpr, C: tl.constexpr):
    """Each pixel of x, times the factor, in four pixels of y, which has this width and these pixels."""
    n, p = tl.program_id(0).to(tl.int64), tl.program_id(1) * P + tl.arange(0, P)
    c = tl.program_id(2) * C + tl.arange(0, C)
    inside = (p < pixels)[:, None] & (c < channels)[None, :]
    source = (p // width // 2) * (width // 2) + p % width // 2
    v = tl.load(x + (n * (pixels // 4) + source)[:, None] * channels + c[None, :], mask=inside).to(tl.float32)
    tl.store(y + (n * pixels + p)[:, None] * channels + c[None, :], (v * factor).to(y.dtype.element_ty), mask=inside)


@triton.jit
def gather(x, y, factor, width, pixels, channels, P: tl.constexpr, C: tl.constexpr):
    """The sum of four pixels of x, times the factor, in each pixel of y, which has this width and these pixels."""
    n, p = tl.program_id(0).to(tl.int64), tl.program_id(1) * P + tl.arange(0, P)
    c = tl.program_id(2) * C + tl.arange(0, C)
    inside = (p < pixels)[:, None] & (c < channels)[None, :]
    first = (n * (4 * pixels) + (p // width) * 4 * width + p % width * 2)[:, None] * channels + c[None, :]
    v = tl.load(x + first, mask=inside).to(tl.float32) + tl.load(x + first + channels, mask=inside).to(tl.float32)
    below = first + 2 * width * channels
    v += tl.load(x + below, mask=inside).to(tl.float32) + tl.load(x + below + channels, mask=inside).to(tl.float32)
    tl.store(y + (n * pixels + p)[:, None] * channels + c[None, :], (v * factor).to(y.dtype.element_ty), mask=inside)
