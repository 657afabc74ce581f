"""A discriminator on the feature maps of a frozen pretrained network, mixed at random (Projected GANs, arXiv
2111.01007), with a condition as StyleGAN-XL has it (arXiv 2202.00273). GDD (arXiv 2405.20750) takes that one."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msd_ray.networks import efficientnet
from msd_ray.networks.embedding import ConditionVector
from msd_ray.objectives.base import Nets

WIDTHS = (64, 128, 256, 512)
"""Channels of maps that have a quarter of the picture's side, an eighth, a sixteenth and a thirty-second."""
COMPARED = 64
"""Numbers of each place of a head that are compared with the condition's."""
POWER_STEPS = 10


class RandomMix(nn.Module):
    """A 1 x 1 convolution that nothing trains. Its weights are drawn from torch's global random state. They are
    buffers, so checkpoints have them and optimizers have not."""

    weight: Tensor
    bias: Tensor

    def __init__(self, channels: int, channels_out: int) -> None:
        super().__init__()
        for name, drawn in nn.Conv2d(channels, channels_out, 1).named_parameters():
            self.register_buffer(name, drawn.detach())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias)


class MixedMaps(nn.Module):
    """Mixes the channels of each map [B, channels[i], s / 2^i, s / 2^i], then adds the coarser ones to the finer ones.
    What comes out is twice as fine as what goes in."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.widths = (WIDTHS[0], *WIDTHS[:-1])
        self.across_channels = nn.ModuleList(RandomMix(n, w) for n, w in zip(channels, WIDTHS, strict=True))
        self.across_scales = nn.ModuleList(RandomMix(n, w) for n, w in zip(WIDTHS, self.widths, strict=True))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[B, widths[i], 2 s / 2^i, 2 s / 2^i]."""
        own = [mix(h) for mix, h in zip(self.across_channels, maps, strict=True)]
        found: list[Tensor] = []
        for mix, h in zip(reversed(self.across_scales), reversed(own), strict=True):
            with_coarser = h + found[-1] if found else h
            found.append(mix(F.interpolate(with_coarser, scale_factor=2.0, mode="bilinear", align_corners=True)))
        return found[::-1]


class SpectralConv(nn.Module):
    """A convolution whose weight is divided by its largest singular value (arXiv 1802.05957).

    That value is found anew each time, from the same vector, and not carried over from the pass before as the paper
    does: so it follows from the weight alone, however many processes share the work.
    """

    start: Tensor

    def __init__(
        self, channels: int, channels_out: int, size: int, stride: int = 1, padding: int = 0, bias: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels_out, size, stride, padding, bias=bias)
        self.register_buffer("start", F.normalize(torch.randn(channels_out), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        weight = conv.weight / largest_singular_value(conv.weight.flatten(1), self.start)
        return F.conv2d(x, weight, conv.bias, conv.stride, conv.padding)


def largest_singular_value(matrix: Tensor, start: Tensor) -> Tensor:
    """Of a matrix [m, n], by power iteration from a vector [m]: never too large, and a few per cent too small where the
    next one is nearly as large."""
    with torch.no_grad():
        u = start
        for _ in range(POWER_STEPS):
            v = F.normalize(matrix.T @ u, dim=0)
            u = F.normalize(matrix @ v, dim=0)
    largest: Tensor = u @ matrix @ v
    return largest


class ProjectionHead(nn.Module):
    """A mixed map [B, channels, ...] and its conditions -> a map of logits [B, places].

    Each convolution halves the map; the last compares each place with the condition's vector (arXiv 1802.05637), or
    gives a logit where there are no conditions. Normalisation is over the batch, as in the paper.
    """

    def __init__(self, channels: int, widths: Sequence[int], size: int, classes: int) -> None:
        """size: of the last convolution's kernel."""
        super().__init__()
        self.halvings = nn.Sequential(*(_halving(*pair) for pair in pairwise([channels, *widths])))
        self.last = SpectralConv(widths[-1], COMPARED if classes else 1, size, bias=False)
        self.vector = ConditionVector(COMPARED, classes) if classes else None

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        places: Tensor = self.last(self.halvings(h)).flatten(2)
        if self.vector is not None:
            places = places * self.vector(condition)[:, :, None] / COMPARED**0.5
        return places.sum(dim=1)


def _halving(channels: int, channels_out: int) -> nn.Module:
    return nn.Sequential(
        SpectralConv(channels, channels_out, 4, stride=2, padding=1),
        nn.BatchNorm2d(channels_out, track_running_stats=False),
        nn.LeakyReLU(0.2),
    )


class RandomProjectionsHead(nn.Module):
    """A head for each of the mixed maps; their logits, [B, places of all]."""

    def __init__(self, channels: Sequence[int], side: int, classes: int) -> None:
        """side: of the pictures; the last map has a thirty-second of it, and so have all where heads end."""
        super().__init__()
        self.mixed, size = MixedMaps(channels), (side // 32 + 1) // 2
        self.heads = nn.ModuleList(
            ProjectionHead(width, WIDTHS[i:], size, classes) for i, width in enumerate(self.mixed.widths)
        )

    def forward(self, maps: list[Tensor], condition: Tensor) -> Tensor:
        mixed = self.mixed(maps)
        return torch.cat([head(h, condition) for head, h in zip(self.heads, mixed, strict=True)], dim=1)


def random_projections_head(nets: Nets, side: int) -> nn.Module:
    """On the maps of EfficientNet-Lite0 in pictures of that side."""
    return RandomProjectionsHead(efficientnet.CHANNELS, side, nets.generator.classes)
