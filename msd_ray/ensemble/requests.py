"""Conditions and seeds, as a caller gives them to `generate`, and the noise that follows from the seeds."""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from msd_ray.conditions import Condition, Conditions
from msd_ray.errors import UserError
from msd_ray.ranges import LARGEST_SEED
from msd_ray.rng import stream
from msd_ray.validation import shortened


def seeded_noise(seeds: Sequence[int], sample_shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise, each sample's drawn from its own seed: [N, *sample_shape]."""
    return seeded_noises(seeds, sample_shape, 1)[0]


def seeded_noises(seeds: Sequence[int], sample_shape: tuple[int, ...], draws: int) -> Tensor:
    """As `seeded_noise`, and what each seed gives after that: [draws, N, *sample_shape]."""
    drawn = []
    for seed in seeds:
        rng = stream("sample", seed)
        drawn.append(torch.stack([torch.randn(sample_shape, generator=rng) for _ in range(draws)]))
    return torch.stack(drawn, dim=1)


def integers(values: Sequence[Any] | Tensor, what: str) -> list[int]:
    """`values` as integers; the message calls them `what`. Raises UserError if one is not an integer."""
    try:
        return [operator.index(value) for value in (values.tolist() if isinstance(values, Tensor) else values)]
    except TypeError as error:
        raise UserError(f"{what} must be a list of integers: {error}") from error


def seeds_of(values: Sequence[int] | Tensor) -> list[int]:
    """`values` as seeds. Raises UserError if one is out of range, which is the same in the service and in recipes."""
    seeds = integers(values, "seeds")
    if strangers := [seed for seed in seeds if not 0 <= seed <= LARGEST_SEED]:
        raise UserError(f"seeds must be from 0 to {LARGEST_SEED}, not {shortened(strangers[0])}")
    return seeds


def asked_of(conditions: Conditions, values: Sequence[Condition] | Tensor) -> list[Condition]:
    """`values` as requests have them: ids, or texts where conditions are open. Raises UserError where one is neither,
    or a number that does not fit."""
    if conditions.is_open:
        return [conditions.id_of(value) for value in (values.tolist() if isinstance(values, Tensor) else values)]
    ids = integers(values, "conditions")
    as_tensor(ids)
    return list(ids)


def as_tensor(conditions: list[int]) -> Tensor:
    """Conditions as [N] int64. Raises UserError for a number that does not fit."""
    try:
        return torch.tensor(conditions, dtype=torch.long)
    except (RuntimeError, ValueError, OverflowError) as error:
        raise UserError(f"no such condition: {max(conditions, key=abs)}") from error
