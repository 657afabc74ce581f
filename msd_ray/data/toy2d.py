"""A 2-D class-conditional mixture of Gaussians, after the toy experiment of MSD (arXiv 2410.23274, section 5.1).

The paper does not publish the number of modes. Ours: class centres on a circle of radius 0.5; around each a ring of
8 modes of radius 0.1 and standard deviation 0.005.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch

from msd_ray.data.source import DataSet, Split, in_memory
from msd_ray.ranges import Seed, within

CENTRES_RADIUS, RING_RADIUS, MODES, STD = 0.5, 0.1, 8, 0.005


@dataclass(frozen=True)
class Toy2d:
    """samples: training points; a quarter as many are held out, classes in turn."""

    classes: Annotated[int, within(ge=1, le=10**5)] = 8
    samples: Annotated[int, within(ge=1, le=10**7)] = 8192
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.samples < self.classes:
            raise ValueError(f"samples ({self.samples}) must be at least one for each of the {self.classes} classes")

    def load(self) -> DataSet:
        rng = torch.Generator().manual_seed(self.seed)
        labels = tuple(f"ring {i}" for i in range(self.classes))
        train = _draw(self.classes, self.samples, rng)
        return DataSet(train, _draw(self.classes, max(self.classes, self.samples // 4), rng), labels)


def _draw(classes: int, n: int, rng: torch.Generator) -> Split:
    condition = torch.arange(n) % classes
    mode = torch.randint(MODES, (n,), generator=rng)
    points = CENTRES_RADIUS * _on_circle(condition, classes) + RING_RADIUS * _on_circle(mode, MODES)
    return in_memory(points + STD * torch.randn(n, 2, generator=rng), condition)


def _on_circle(index: torch.Tensor, n: int) -> torch.Tensor:
    angle = 2 * math.pi * index / n
    return torch.stack([angle.cos(), angle.sin()], dim=1)
