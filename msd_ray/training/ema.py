"""Exponential moving average of weights, its half-life counted in images."""

from dataclasses import dataclass

import torch
from torch import nn

from msd_ray.networks.adapters import own_parameters
from msd_ray.ranges import ImagesOrNone, Weight
from msd_ray.training.pieces import here


@dataclass(frozen=True)
class EMAConfig:
    """halflife: images after which a weight's share has halved. rampup: the half-life is at most this share of the
    images seen so far, so that the first weights are forgotten soon (EDM: 0.05)."""

    halflife: ImagesOrNone = 500_000
    rampup: Weight = 0.05

    def decay(self, nimg: int, batch: int) -> float:
        """The factor that the average keeps over one step of `batch` images, `nimg` images into training."""
        halflife = min(self.halflife, nimg * self.rampup)
        return float(0.5 ** (batch / max(halflife, 1e-8)))


@torch.no_grad()
def update(average: nn.Module, module: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * module, in place; of what is their own."""
    own, new = ([here(p) for _, p in own_parameters(m)] for m in (average, module))
    torch._foreach_lerp_(own, new, 1 - decay)
