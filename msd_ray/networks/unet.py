"""The ADM UNet (arXiv 2105.05233) in the form that EDM trains it in (arXiv 2206.00364, appendix F.2)."""

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from msd_ray.networks.embedding import ConditionEmbedding
from msd_ray.networks.layers import (
    Maps,
    added,
    convolved,
    doubled,
    group_norm,
    halved,
    normed,
    normed_and_kept,
    pointwise,
    self_attention,
)
from msd_ray.networks.sizes import Multipliers, StudentSize
from msd_ray.networks.ushaped import UShaped
from msd_ray.ranges import BelowOne, Blocks, Width


@dataclass(frozen=True)
class UNetConfig:
    """Shape of a UNet; what the data decides (resolution, image channels, classes) is not part of it.

    channels: width at full resolution. multipliers: width factor of each resolution level, finest first.
    blocks: residual blocks per level (one more on the way up). attention: resolutions in pixels with self-attention.
    head_channels: channels per attention head. dropout: probability, in training mode only.
    """

    kind: Literal["unet"] = "unet"
    channels: Width = 192
    multipliers: Multipliers = (1, 2, 3, 4)
    blocks: Blocks = 3
    attention: tuple[Width, ...] = (32, 16, 8)
    head_channels: Width = 64
    dropout: BelowOne = 0.1

    def __post_init__(self) -> None:
        if self.channels % 4:
            raise ValueError("channels must be a multiple of 4")

    def build(self, sample_shape: tuple[int, ...], classes: int) -> "UNet":
        return UNet(self, sample_shape, classes)

    def cut(self, size: StudentSize) -> "UNetConfig":
        multipliers, blocks = size.multipliers or self.multipliers, size.blocks or self.blocks
        return replace(self, channels=size.width_of(self.channels), multipliers=multipliers, blocks=blocks)

    def misfit(self, sample_shape: tuple[int, ...]) -> str:
        return attention_misfit(self.attention, len(self.multipliers), sample_shape)


def attention_misfit(attention: tuple[int, ...], levels: int, sample_shape: tuple[int, ...]) -> str:
    """Attention at a resolution that a network with so many levels does not have, as `Kind.misfit` says it."""
    if len(sample_shape) != 3:
        return ""
    there = [sample_shape[1] >> level for level in range(levels)]
    strangers = [size for size in attention if size not in there]
    if not strangers:
        return ""
    has = [size for size in attention if size in there]
    return (
        f"network.attention: this network has no level of {strangers[0]} pixels, only of "
        f"{', '.join(map(str, there))}; write network.attention={has}"
    )


def levels_of(resolution: int, levels: int) -> list[int]:
    """The resolution of each level, halved from one to the next. Raises ValueError where it cannot be halved so."""
    if resolution % 2 ** (levels - 1):
        raise ValueError(f"{levels} levels need a resolution divisible by {2 ** (levels - 1)}, not {resolution}")
    return [resolution >> level for level in range(levels)]


def _zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """Residual branches start as zero, so that every block starts as the identity."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class Attention(nn.Module):
    """Multi-head self-attention over the pixels of [B, C, H, W], with its residual connection."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        most = max(1, channels // head_channels)
        self.heads = next(heads for heads in range(most, 0, -1) if channels % heads == 0)
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = _zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        h, kept = normed_and_kept(self.norm, x, silu=False)
        return kept + pointwise(self.proj, self_attention(pointwise(self.qkv, h), self.heads))


class Block(nn.Module):
    """Residual block with adaptive scale and shift from the embedding; optionally resamples by 2 and attends."""

    def __init__(
        self, c_in: int, c_out: int, emb: int, config: UNetConfig, *, attend: bool = False, resample: str = ""
    ) -> None:
        super().__init__()
        self.resample, self.dropout = resample, config.dropout
        self.norm0 = group_norm(c_in)
        self.conv0 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.affine = nn.Linear(emb, 2 * c_out)
        self.norm1 = group_norm(c_out)
        self.conv1 = _zeroed(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.attention = Attention(c_out, config.head_channels) if attend else nn.Identity()

    def forward(self, x: Maps, emb: Tensor) -> Tensor:
        h, kept = normed_and_kept(self.norm0, x)
        kept = kept if isinstance(kept, tuple) else self._resampled(kept)
        h, bias = convolved(self.conv0, self._resampled(h))
        h = F.dropout(normed(self.norm1, h, self.affine(emb), bias=bias), self.dropout, self.training)
        h, bias = convolved(self.conv1, h)
        out: Tensor = self.attention(added(pointwise(self.skip, kept), h, bias))
        return out

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return halved(x)
        if self.resample == "up":
            return doubled(x)
        return x


class UNet(UShaped):
    """F(x [B, C, H, W], c_noise [B], condition) -> [B, C, H, W].

    Raises ValueError where the resolution cannot be halved once per level below the first.
    """

    embedding: ConditionEmbedding

    def __init__(self, config: UNetConfig, image_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        image_channels, resolution, _ = image_shape
        levels = len(config.multipliers)
        sizes = levels_of(resolution, levels)
        emb = 4 * config.channels
        self.embedding = ConditionEmbedding(config.channels, emb, classes)
        widths = [config.channels * m for m in config.multipliers]
        self.feature_shapes = [(width, size, size) for width, size in zip(widths, sizes, strict=True)]
        per_level = config.blocks + 1  # features of a level: its first convolution or halving, then its blocks
        self.last_of_level = [per_level * (level + 1) - 1 for level in range(levels)]

        def block(c_in: int, c_out: int, size: int, resample: str = "", attend: bool | None = None) -> Block:
            attends = size in config.attention and not resample if attend is None else attend
            return Block(c_in, c_out, emb, config, attend=attends, resample=resample)

        self.conv_in = nn.Conv2d(image_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        skips, c = [widths[0]], widths[0]
        for level, (width, size) in enumerate(zip(widths, sizes, strict=True)):
            if level:
                self.down.append(block(c, c, size, "down"))
                skips.append(c)
            for _ in range(config.blocks):
                self.down.append(block(c, width, size))
                c = width
                skips.append(c)

        self.middle = nn.ModuleList([block(c, c, sizes[-1], attend=True), block(c, c, sizes[-1], attend=False)])

        self.up = nn.ModuleList()
        for level in reversed(range(levels)):
            if level < levels - 1:
                self.up.append(block(c, c, sizes[level], "up"))
            for _ in range(config.blocks + 1):
                self.up.append(block(c + skips.pop(), widths[level], sizes[level]))
                c = widths[level]

        self.norm_out = group_norm(c)
        self.conv_out = _zeroed(nn.Conv2d(c, image_channels, 3, padding=1))

    def _encode(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        features = [self.conv_in(x)]
        for block in self.down:
            features.append(block(features[-1], emb))
        return features
