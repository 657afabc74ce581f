"""A 2-D class-conditional mixture of Gaussians, after the toy experiment of MSD (arXiv 2410.23274, section 5.1).

The paper does not publish the number of modes. Ours: class centres on a circle of radius 0.5; around each a ring of
8 modes of radius 0.1 and standard deviation 0.005.
"""

import math

import torch

from msd_ray.data.source import DataSet, Split, in_memory

CENTRES_RADIUS, RING_RADIUS, MODES, STD = 0.5, 0.1, 8, 0.005


def load(classes: int, samples: int, seed: int) -> DataSet:
    """`samples` training points and a quarter as many held out, classes in turn."""
    rng = torch.Generator().manual_seed(seed)
    labels = tuple(f"ring {i}" for i in range(classes))
    return DataSet(_draw(classes, samples, rng), _draw(classes, max(classes, samples // 4), rng), labels)


def _draw(classes: int, n: int, rng: torch.Generator) -> Split:
    condition = torch.arange(n) % classes
    mode = torch.randint(MODES, (n,), generator=rng)
    points = CENTRES_RADIUS * _on_circle(condition, classes) + RING_RADIUS * _on_circle(mode, MODES)
    return in_memory(points + STD * torch.randn(n, 2, generator=rng), condition)


def _on_circle(index: torch.Tensor, n: int) -> torch.Tensor:
    angle = 2 * math.pi * index / n
    return torch.stack([angle.cos(), angle.sin()], dim=1)
