"""The discriminators: layers on features of the fake score, or of the frozen teacher."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msd_ray.networks.layers import group_norm
from msd_ray.objectives.base import Nets


def discriminator_head(feature_shape: tuple[int, ...]) -> nn.Module:
    """Features [B, *feature_shape] -> one logit per sample, [B, 1].

    For feature maps: a convolution that halves the map, one that takes in all that is left, one to the logit; on
    DMD2's 8 x 8 maps these are its 4 x 4 kernels of stride 2 and 4. For vectors: the same with linear layers.
    """
    c = feature_shape[0]
    if len(feature_shape) == 1:
        return nn.Sequential(
            nn.Linear(c, c), nn.LayerNorm(c), nn.SiLU(), nn.Linear(c, c), nn.LayerNorm(c), nn.SiLU(), nn.Linear(c, 1)
        )
    rest = feature_shape[1] // 2
    if rest == 0:
        raise ValueError("a discriminator head needs a bottleneck of at least 2 x 2 pixels: use fewer multipliers")
    return nn.Sequential(
        nn.Conv2d(c, c, 4, stride=2, padding=1),
        group_norm(c),
        nn.SiLU(),
        nn.Conv2d(c, c, rest, stride=rest),
        group_norm(c),
        nn.SiLU(),
        nn.Conv2d(c, 1, 1),
        nn.Flatten(),
    )


def bottleneck_head(nets: Nets) -> nn.Module:
    """On the fake score's bottleneck (DMD2, arXiv 2405.14867, section 4.3)."""
    return discriminator_head(nets.fake.network.bottleneck_shape)


class ProjectedHead(nn.Module):
    """One head for each of the frozen features [B, *shape] of a sample; their logits, [B, number of features].

    Features whose map is a single pixel get the head for vectors.
    """

    def __init__(self, shapes: list[tuple[int, ...]]) -> None:
        super().__init__()
        self.flat = [len(shape) == 1 or shape[1] < 2 for shape in shapes]
        self.heads = nn.ModuleList(
            discriminator_head(shape[:1] if flat else shape) for shape, flat in zip(shapes, self.flat, strict=True)
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        logits = [
            head(f.flatten(1) if flat else f) for head, f, flat in zip(self.heads, features, self.flat, strict=True)
        ]
        return torch.cat(logits, dim=1)


def projected_head(nets: Nets) -> nn.Module:
    """On the frozen teacher's features at every resolution."""
    assert nets.encoder is not None
    return ProjectedHead(nets.encoder.network.feature_shapes)


def generator_gan(logits: Tensor) -> Tensor:
    """The generator's non-saturating loss."""
    return F.softplus(-logits).mean()


def discriminator_gan(on_fake: Tensor, on_real: Tensor) -> Tensor:
    """The discriminator's side of the same game."""
    return F.softplus(on_fake).mean() + F.softplus(-on_real).mean()
