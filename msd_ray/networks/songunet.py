"""DDPM++ and NCSN++ (arXiv 2011.13456) in the form that EDM trains them in (arXiv 2206.00364, appendix F.2)."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msd_ray.networks.embedding import as_vectors
from msd_ray.networks.layers import (
    Maps,
    doubled,
    group_norm,
    halved,
    normed,
    normed_and_kept,
    pointwise,
    self_attention,
)
from msd_ray.networks.sizes import Multipliers, StudentSize
from msd_ray.networks.unet import attention_misfit, levels_of
from msd_ray.networks.ushaped import UShaped
from msd_ray.ranges import BelowOne, Blocks, Width

HALF = math.sqrt(0.5)  # keeps the variance of a sum of two
EPS = 1e-6
Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


@dataclass(frozen=True)
class SongUNetConfig:
    """form: DDPM++ or NCSN++, which halves and doubles more smoothly and lets the image in at every level. channels,
    multipliers, blocks, attention, dropout: as of a `unet`."""

    kind: Literal["songunet"] = "songunet"
    form: Literal["ddpm++", "ncsn++"] = "ddpm++"
    channels: Width = 128
    multipliers: Multipliers = (2, 2, 2)
    blocks: Blocks = 4
    attention: tuple[Width, ...] = (16,)
    dropout: BelowOne = 0.13

    def __post_init__(self) -> None:
        if self.channels % 4:
            raise ValueError("channels must be a multiple of 4")

    def build(self, sample_shape: tuple[int, ...], classes: int) -> "SongUNet":
        return SongUNet(self, sample_shape, classes)

    def cut(self, size: StudentSize) -> "SongUNetConfig":
        multipliers, blocks = size.multipliers or self.multipliers, size.blocks or self.blocks
        return replace(self, channels=size.width_of(self.channels), multipliers=multipliers, blocks=blocks)

    def misfit(self, sample_shape: tuple[int, ...]) -> str:
        return attention_misfit(self.attention, len(self.multipliers), sample_shape)


class SongEmbedding(nn.Module):
    """Noise level and condition -> one vector [B, 4 channels]."""

    freqs: Tensor

    def __init__(self, config: SongUNetConfig, classes: int) -> None:
        super().__init__()
        width, self.classes = config.channels * (2 if config.form == "ncsn++" else 1), classes
        if config.form == "ncsn++":
            self.register_buffer("freqs", 16 * torch.randn(width // 2))
        self.fixed = width if config.form == "ddpm++" else 0
        self.label = _drawn(nn.Linear(classes, width)) if classes else None
        self.noise_in = _drawn(nn.Linear(width, 4 * config.channels))
        self.noise_out = _drawn(nn.Linear(4 * config.channels, 4 * config.channels))

    def forward(self, c_noise: Tensor, condition: Tensor) -> Tensor:
        h = self._waves(c_noise).to(self.noise_in.weight.dtype)
        if self.label is not None:
            h = h + self.label(as_vectors(condition, self.classes).to(h.dtype) * math.sqrt(self.classes))
        return F.silu(self.noise_out(F.silu(self.noise_in(h))))

    def _waves(self, c_noise: Tensor) -> Tensor:
        """Sines and cosines of c_noise [B]: of fixed frequencies from 1 to 1 / 10,000, or of those that it has."""
        c = c_noise.to(torch.promote_types(c_noise.dtype, torch.float32))
        if self.fixed:
            steps = torch.arange(self.fixed // 2, device=c.device, dtype=c.dtype)
            rates = torch.exp(-math.log(10_000) * steps / (len(steps) - 1))
        else:
            rates = 2 * torch.pi * self.freqs.to(c.dtype)
        angles = c[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class SongBlock(nn.Module):
    """Residual block with a shift from the embedding; optionally resamples by 2 and attends, with one head."""

    def __init__(
        self, c_in: int, c_out: int, config: SongUNetConfig, *, attend: bool = False, resample: str = ""
    ) -> None:
        super().__init__()
        self.resample, self.dropout, self.smooth = resample, config.dropout, config.form == "ncsn++"
        self.norm0 = group_norm(c_in, EPS)
        self.conv0 = _drawn(nn.Conv2d(c_in, c_out, 3, padding=1))
        self.affine = _drawn(nn.Linear(4 * config.channels, c_out))
        self.norm1 = group_norm(c_out, EPS)
        self.conv1 = _drawn(nn.Conv2d(c_out, c_out, 3, padding=1), 1e-5)
        self.skip = _drawn(nn.Conv2d(c_in, c_out, 1)) if c_in != c_out or resample else nn.Identity()
        self.attention = SongAttention(c_out) if attend else nn.Identity()

    def forward(self, x: Maps, emb: Tensor) -> Tensor:
        h, kept = normed_and_kept(self.norm0, x)
        kept = kept if isinstance(kept, tuple) else self._resampled(kept)
        h = self.conv0(self._resampled(h))
        h = normed(self.norm1, h + self.affine(emb)[:, :, None, None])
        h = self.conv1(F.dropout(h, self.dropout, self.training))
        out: Tensor = self.attention((pointwise(self.skip, kept) + h) * HALF)
        return out

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return _halved(x, padding=1) if self.smooth else halved(x)
        if self.resample == "up":
            return _doubled(x) if self.smooth else doubled(x)
        return x


class SongAttention(nn.Module):
    """Self-attention with one head over the pixels of [B, C, H, W], with its residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, EPS)
        self.qkv = _drawn(nn.Conv2d(channels, 3 * channels, 1), math.sqrt(0.2))
        self.proj = _drawn(nn.Conv2d(channels, channels, 1), 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        h, kept = normed_and_kept(self.norm, x, silu=False)
        return (kept + pointwise(self.proj, self_attention(pointwise(self.qkv, h), 1))) * HALF


class SongUNet(UShaped):
    """F(x [B, C, H, W], c_noise [B], condition) -> [B, C, H, W].

    Raises ValueError where the resolution cannot be halved once per level below the first.
    """

    def __init__(self, config: SongUNetConfig, image_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        image_channels, resolution, _ = image_shape
        sizes = levels_of(resolution, len(config.multipliers))
        widths = [config.channels * m for m in config.multipliers]
        self.feature_shapes = [(width, size, size) for width, size in zip(widths, sizes, strict=True)]
        self.last_of_level = [(config.blocks + 1) * (level + 1) - 1 for level in range(len(widths))]
        self.embedding = SongEmbedding(config, classes)

        self.conv_in = _drawn(nn.Conv2d(image_channels, config.channels, 3, padding=1))
        self.down, skips, c = nn.ModuleList(), [config.channels], config.channels
        for level, (width, size) in enumerate(zip(widths, sizes, strict=True)):
            if level:
                self.down.append(SongBlock(c, c, config, resample="down"))
                skips.append(c)
            for _ in range(config.blocks):
                self.down.append(SongBlock(c, width, config, attend=size in config.attention))
                c = width
                skips.append(c)
        image_widths = pairwise([image_channels, *widths[:-1]]) if config.form == "ncsn++" else ()
        self.images = nn.ModuleList(_drawn(nn.Conv2d(a, b, 3, padding=2)) for a, b in image_widths)

        self.middle = nn.ModuleList([SongBlock(c, c, config, attend=True), SongBlock(c, c, config)])

        self.up = nn.ModuleList()
        for width, size in zip(reversed(widths), reversed(sizes), strict=True):
            if size != sizes[-1]:
                self.up.append(SongBlock(c, c, config, resample="up"))
            for i in range(config.blocks + 1):
                attend = i == config.blocks and size in config.attention
                self.up.append(SongBlock(c + skips.pop(), width, config, attend=attend))
                c = width
        self.norm_out = group_norm(c, EPS)
        self.conv_out = _drawn(nn.Conv2d(c, image_channels, 3, padding=1), 1e-5)

    def _encode(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        features, image, smaller = [self.conv_in(x)], x, iter(self.images)
        for block in self.down:
            h = block(features[-1], emb)
            if block.resample and len(self.images):
                h = image = (h + _halved(next(smaller)(image), padding=0)) * HALF
            features.append(h)
        return features


def _drawn(layer: Layer, gain: float = 1.0) -> Layer:
    """With the weights that EDM starts from; a small gain makes a block start near the identity."""
    nn.init.xavier_uniform_(layer.weight, gain)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _filter(x: Tensor) -> Tensor:
    """[1, 3, 3, 1] / 8 in both directions, for each channel of x: [C, 1, 4, 4]."""
    taps = (4 - 2 * (torch.arange(4, device=x.device, dtype=x.dtype) - 1.5).abs()) / 8
    return taps.outer(taps).expand(x.shape[1], 1, 4, 4)


def _halved(x: Tensor, padding: int) -> Tensor:
    return F.conv2d(x, _filter(x), stride=2, padding=padding, groups=x.shape[1])


def _doubled(x: Tensor) -> Tensor:
    return F.conv_transpose2d(x, 4 * _filter(x), stride=2, padding=1, groups=x.shape[1])
