"""Fitting a partition: the ways of dividing conditions among students that MSD tried (arXiv 2410.23274), and O2MKD's
division of the timesteps (arXiv 2410.04191)."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from msd_ray.conditions.conditions import Conditions
from msd_ray.conditions.kmeans import balanced_kmeans
from msd_ray.conditions.partition import Partition, Table
from msd_ray.conditions.partition_config import KMEANS, LEARNED, OF_CLASSES, RANDOM, SEQUENTIAL, PartitionConfig
from msd_ray.conditions.prompt_fit import fitted
from msd_ray.diffusion import Noise
from msd_ray.errors import UserError, one_line
from msd_ray.own_code import imported, is_own
from msd_ray.rng import derived_seed, stream


def fit(
    config: PartitionConfig, conditions: Conditions, means: NDArray[Any] | None = None, noise: Noise | None = None
) -> Partition:
    """Divides the conditions into config.k parts; same input, same result. Sizes differ by at most one, but where the
    user's own function says otherwise.

    means: [n, d] mean features of each class, for kmeans. Parts are numbered by the lowest condition that they hold.
    noise: schedule that the timesteps are taken from. Raises UserError for more parts than conditions, for
    kmeans without finite means, for a kind that does not suit the conditions, and for a user's own function that gives
    no partition. Parts of prompts may differ in size. Of the kind learned this is what the trunk is trained with,
    consecutive classes, until `learned` can be called.
    """
    n, borders = conditions.n, _borders(config.timesteps, noise or Noise())
    if conditions.is_open:
        return fitted(config, conditions, borders)
    if config.k > n:
        raise UserError(f"{config.k} students cannot share {n} classes: set k to at most {n}")
    owners = _own(config, conditions) if is_own(config.kind) else _built_in(config, n, means)
    kind = SEQUENTIAL if config.kind == LEARNED else config.kind
    return Partition(kind, Table(_renumbered(owners)), borders)


def learned(gradients: NDArray[Any], config: PartitionConfig, borders: tuple[float, ...]) -> Partition:
    """Conditions whose losses have similar gradients [n, d] together, in parts of like size.

    A step down the mean gradient g of a part of m conditions lowers the sum of their losses by m |g|^2, to first order.
    The sum of that over the parts is the greater, the less the gradients differ within them: so this is k-means of the
    gradients as they are, whatever they have in common. Raises UserError where one is not finite.
    """
    if not np.isfinite(gradients).all():
        raise UserError(
            "partition.kind: learned needs finite gradients of every class: lower the trunk's learning rate"
        )
    owners = balanced_kmeans(gradients.astype(np.float64), config.k, derived_seed("partition", config.seed))
    return Partition(LEARNED, Table(_renumbered([int(owner) for owner in owners])), borders)


def _built_in(config: PartitionConfig, n: int, means: NDArray[Any] | None) -> list[int]:
    # i * k // n: blocks of consecutive conditions, sizes differing by at most one
    blocks = np.arange(n) * config.k // n
    if config.kind in (SEQUENTIAL, LEARNED):
        owners = blocks
    elif config.kind == RANDOM:
        owners = blocks[torch.randperm(n, generator=stream("partition", config.seed)).numpy()]
    elif config.kind == KMEANS:
        owners = balanced_kmeans(_usable(means, n), config.k, derived_seed("partition", config.seed))
    else:
        raise UserError(f"partition.kind: {config.kind} divides prompts; of classes write {', '.join(OF_CLASSES)}")
    return [int(owner) for owner in owners]


def _own(config: PartitionConfig, conditions: Conditions) -> list[int]:
    divide = imported(config.kind, "partition.kind")
    try:
        owners = [int(owner) for owner in divide(conditions, config)]
    except Exception as error:  # whatever the user's module does
        raise UserError(f"partition.kind: {config.kind} gives no partition: {one_line(error)}") from None
    if len(owners) != conditions.n or set(owners) != set(range(config.k)):
        raise UserError(
            f"partition.kind: {config.kind} must give each of the {conditions.n} conditions a part from 0 to "
            f"{config.k - 1}, and each part a condition"
        )
    return owners


def _borders(timesteps: int, noise: Noise) -> tuple[float, ...]:
    """Evenly spaced in sigma^(1/rho), as the levels of a sampler are, so that every student gets a like share of them;
    of generators of several steps the levels at which a new phase begins, so that each has a like share of the steps.

    As float32 has them, which samplers count in: a level meant to lie on a border does.
    """
    if len(levels := noise.step_levels) > 1:
        begins = [levels[phase * len(levels) // timesteps] for phase in reversed(range(1, timesteps))]
        return tuple(torch.tensor(begins, dtype=torch.float32).tolist())
    return tuple(noise.grid(timesteps + 1)[1:-1].tolist())


def _usable(means: NDArray[Any] | None, n: int) -> NDArray[np.float64]:
    if means is None:
        raise UserError("a kmeans partition needs data to compare the classes by: use sequential or random without")
    if means.ndim != 2 or len(means) != n:
        raise ValueError(f"means must be [{n}, d], not {means.shape}")
    if not np.isfinite(means).all():
        raise UserError("a kmeans partition needs at least one sample of every class and finite features")
    return means.astype(np.float64)


def _renumbered(owners: list[int]) -> tuple[int, ...]:
    """The same parts, numbered by the order in which they first appear."""
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(owner, len(numbers)) for owner in owners)
