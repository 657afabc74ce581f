"""Fitting a partition: the ways of dividing conditions among students that MSD tried (arXiv 2410.23274), and O2MKD's
division of the timesteps (arXiv 2410.04191)."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from msd_ray.conditions.kmeans import balanced_kmeans
from msd_ray.conditions.partition import Partition
from msd_ray.diffusion import Noise
from msd_ray.errors import UserError
from msd_ray.ranges import Count, Seed, within
from msd_ray.rng import derived_seed, stream


@dataclass(frozen=True)
class PartitionConfig:
    """k: parts of the conditions. kind: consecutive classes, a random division, or classes with similar features
    together. seed: of random and kmeans. timesteps: intervals of the noise levels. There are k * timesteps students.
    """

    k: Count = 1
    kind: Literal["sequential", "random", "kmeans"] = "sequential"
    seed: Seed = 0
    timesteps: Annotated[int, within(ge=1, le=1000)] = 1


def fit(
    config: PartitionConfig, classes: int, class_means: NDArray[Any] | None = None, noise: Noise | None = None
) -> Partition:
    """Divides conditions 0..classes-1 into config.k parts whose sizes differ by at most one; same input, same result.

    class_means: [classes, d] mean features of each class, for kmeans. Parts are numbered by the lowest condition that
    they hold. noise: schedule that the timesteps are taken from. Raises UserError for more parts than classes, and for
    kmeans without finite class means.
    """
    if config.k > classes:
        raise UserError(f"{config.k} students cannot share {classes} classes: set k to at most {classes}")
    # i * k // classes: blocks of consecutive conditions, sizes differing by at most one
    blocks = np.arange(classes) * config.k // classes
    if config.kind == "sequential":
        owners = blocks
    elif config.kind == "random":
        order = torch.randperm(classes, generator=stream("partition", config.seed))
        owners = blocks[order.numpy()]
    else:
        owners = balanced_kmeans(_usable(class_means, classes), config.k, derived_seed("partition", config.seed))
    return Partition(config.kind, _renumbered(owners.tolist()), _borders(config.timesteps, noise or Noise()))


def _borders(timesteps: int, noise: Noise) -> tuple[float, ...]:
    """Evenly spaced in sigma^(1/rho), as the levels of a sampler are, so that every student gets a like share of them.

    As float32 has them, which samplers count in: a level meant to lie on a border does.
    """
    return tuple(noise.grid(timesteps + 1)[1:-1].tolist())


def _usable(class_means: NDArray[Any] | None, classes: int) -> NDArray[np.float64]:
    if class_means is None:
        raise UserError("a kmeans partition needs data to compare the classes by: use sequential or random without")
    if class_means.ndim != 2 or len(class_means) != classes:
        raise ValueError(f"class_means must be [{classes}, d], not {class_means.shape}")
    if not np.isfinite(class_means).all():
        raise UserError("a kmeans partition needs at least one sample of every class and finite features")
    return class_means.astype(np.float64)


def _renumbered(owners: list[int]) -> tuple[int, ...]:
    """The same parts, numbered by the order in which they first appear."""
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(owner, len(numbers)) for owner in owners)
