"""Triton's kernels of `fused_norm`. Maps lie with channels last, [N, pixels, C]; sums are fp32, nothing is random, and
each sum has its fixed order. Of a tile: P pixels, C channels. G: the channels of a group, padded to a power of 2.
"""

import triton
import triton.language as tl


@triton.jit
def d_silu(u):
    s = tl.sigmoid(u)
    return s * (1 + u * (1 - s))


@triton.jit
def sums(x, sums, pixels, channels, per_split, P: tl.constexpr, C: tl.constexpr):
    """Of x and x^2 over the pixels of one split: sums [N, splits, 2, C]."""
    n, split, splits = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    c = tl.program_id(2) * C + tl.arange(0, C)
    first, second = tl.zeros([P, C], tl.float32), tl.zeros([P, C], tl.float32)
    for start in range(0, per_split, P):
        p = split * per_split + start + tl.arange(0, P)
        inside = (p < tl.minimum(pixels, (split + 1) * per_split))[:, None] & (c < channels)[None, :]
        v = tl.load(x + (n * pixels + p)[:, None] * channels + c[None, :], mask=inside, other=0.0).to(tl.float32)
        first += v
        second += v * v
    out = sums + (n * splits + split) * 2 * channels + c
    tl.store(out, tl.sum(first, 0), mask=c < channels)
    tl.store(out + channels, tl.sum(second, 0), mask=c < channels)


@triton.jit
def line(sums, w, bias, affine, moments, line, pixels, channels, splits, eps, AFFINE: tl.constexpr, G: tl.constexpr):
    """Of one group: moments [N, groups, 2], mean and 1 / std; line [N, 2, C], a and b."""
    n, group, groups = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    size = channels // groups
    inside = tl.arange(0, G) < size
    c = group * size + tl.arange(0, G)
    first, second = tl.zeros([G], tl.float32), tl.zeros([G], tl.float32)
    for split in range(splits):
        at = sums + (n * splits + split) * 2 * channels + c
        first += tl.load(at, mask=inside, other=0.0)
        second += tl.load(at + channels, mask=inside, other=0.0)
    count = pixels * size
    mean = tl.sum(first) / count
    rstd = 1 / tl.sqrt(tl.maximum(tl.sum(second) / count - mean * mean, 0.0) + eps)
    a = tl.load(w + c, mask=inside).to(tl.float32) * rstd
    b = tl.load(bias + c, mask=inside).to(tl.float32) - mean * a
    if AFFINE:
        scale = 1 + tl.load(affine + n * 2 * channels + c, mask=inside).to(tl.float32)
        a, b = a * scale, b * scale + tl.load(affine + n * 2 * channels + channels + c, mask=inside).to(tl.float32)
    tl.store(moments + (n * groups + group) * 2, mean)
    tl.store(moments + (n * groups + group) * 2 + 1, rstd)
    tl.store(line + n * 2 * channels + c, a, mask=inside)
    tl.store(line + n * 2 * channels + channels + c, b, mask=inside)


@triton.jit
def act(x, line, y, pixels, channels, SILU: tl.constexpr, P: tl.constexpr, C: tl.constexpr):
    """y = silu(a x + b)."""
    n, p = tl.program_id(0).to(tl.int64), tl.program_id(1) * P + tl.arange(0, P)
    c = tl.program_id(2) * C + tl.arange(0, C)
    at, inside = (n * pixels + p)[:, None] * channels + c[None, :], (p < pixels)[:, None] & (c < channels)[None, :]
    a = tl.load(line + n * 2 * channels + c, mask=c < channels)
    b = tl.load(line + n * 2 * channels + channels + c, mask=c < channels)
    u = tl.load(x + at, mask=inside).to(tl.float32) * a[None, :] + b[None, :]
    if SILU:
        u = u * tl.sigmoid(u)
    tl.store(y + at, u.to(y.dtype.element_ty), mask=inside)


@triton.jit
def sums_back(
    x,
    dy,
    line,
    moments,
    sums,
    pixels,
    channels,
    groups,
    per_split,
    SILU: tl.constexpr,
    P: tl.constexpr,
    C: tl.constexpr,
):
    """With u = a x + b: of du and du (x - mean) over the pixels of one split, sums [N, splits, 2, C]."""
    n, split, splits = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    c = tl.program_id(2) * C + tl.arange(0, C)
    a = tl.load(line + n * 2 * channels + c, mask=c < channels)
    b = tl.load(line + n * 2 * channels + channels + c, mask=c < channels)
    mean = tl.load(moments + (n * groups + c // (channels // groups)) * 2, mask=c < channels)
    first, second = tl.zeros([P, C], tl.float32), tl.zeros([P, C], tl.float32)
    for start in range(0, per_split, P):
        p = split * per_split + start + tl.arange(0, P)
        inside = (p < tl.minimum(pixels, (split + 1) * per_split))[:, None] & (c < channels)[None, :]
        at = (n * pixels + p)[:, None] * channels + c[None, :]
        v = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        du = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        if SILU:
            du = du * d_silu(v * a[None, :] + b[None, :])
        first += du
        second += du * (v - mean[None, :])
    out = sums + (n * splits + split) * 2 * channels + c
    tl.store(out, tl.sum(first, 0), mask=c < channels)
    tl.store(out + channels, tl.sum(second, 0), mask=c < channels)


@triton.jit
def line_back(
    sums, w, bias, affine, moments, dw, dbias, daffine, slopes, pixels, channels, splits,
    AFFINE: tl.constexpr, G: tl.constexpr,
):  # fmt: skip
    """Of one group: dw, dbias [N, C], daffine [N, 2 C], and slopes [N, groups, 2], with which
    dx = a du + slopes_0 + slopes_1 (x - mean)."""
    n, group, groups = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    size = channels // groups
    inside = tl.arange(0, G) < size
    c = group * size + tl.arange(0, G)
    first, second = tl.zeros([G], tl.float32), tl.zeros([G], tl.float32)
    for split in range(splits):
        at = sums + (n * splits + split) * 2 * channels + c
        first += tl.load(at, mask=inside, other=0.0)
        second += tl.load(at + channels, mask=inside, other=0.0)
    rstd = tl.load(moments + (n * groups + group) * 2 + 1)
    weight = tl.load(w + c, mask=inside, other=0.0).to(tl.float32)
    second = second * rstd
    if AFFINE:
        there = n * 2 * channels + c
        added = tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)
        dscale, scale = (
            weight * second + added * first,
            1 + tl.load(affine + there, mask=inside, other=0.0).to(tl.float32),
        )
        tl.store(daffine + there, dscale.to(daffine.dtype.element_ty), mask=inside)
        tl.store(daffine + there + channels, first.to(daffine.dtype.element_ty), mask=inside)
        first, second = first * scale, second * scale
    tl.store(dw + n * channels + c, second, mask=inside)
    tl.store(dbias + n * channels + c, first, mask=inside)
    count = pixels * size
    at = slopes + (n * groups + group) * 2
    tl.store(at, -rstd * tl.sum(weight * first) / count)
    tl.store(at + 1, -rstd * rstd * tl.sum(weight * second) / count)


@triton.jit
def act_back(
    x, dy, line, moments, slopes, dx, pixels, channels, groups, SILU: tl.constexpr, P: tl.constexpr, C: tl.constexpr
):
    """dx = a du + slopes_0 + slopes_1 (x - mean)."""
    n, p = tl.program_id(0).to(tl.int64), tl.program_id(1) * P + tl.arange(0, P)
    c = tl.program_id(2) * C + tl.arange(0, C)
    at, inside = (n * pixels + p)[:, None] * channels + c[None, :], (p < pixels)[:, None] & (c < channels)[None, :]
    group = (n * groups + c // (channels // groups)) * 2
    a = tl.load(line + n * 2 * channels + c, mask=c < channels)
    mean = tl.load(moments + group, mask=c < channels)
    slope0, slope1 = tl.load(slopes + group, mask=c < channels), tl.load(slopes + group + 1, mask=c < channels)
    v = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    du = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
    if SILU:
        b = tl.load(line + n * 2 * channels + channels + c, mask=c < channels)
        du = du * d_silu(v * a[None, :] + b[None, :])
    d = a[None, :] * du + slope0[None, :] + slope1[None, :] * (v - mean[None, :])
    tl.store(dx + at, d.to(dx.dtype.element_ty), mask=inside)
