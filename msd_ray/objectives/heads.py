"""The discriminators: layers on features of the fake score, or of the frozen teacher."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msd_ray.networks import discriminator_head
from msd_ray.objectives.base import Nets


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
