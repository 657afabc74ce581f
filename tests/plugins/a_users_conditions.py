"""Conditions and partitions as a user would write them, some of them wrong."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from msd_ray.conditions import Classes, Conditions, PartitionConfig


@dataclass(frozen=True)
class Angles:
    """Condition i is an angle of i * step degrees, which networks see as its cosine and sine."""

    data_labels: tuple[str, ...]
    step: float

    @property
    def n(self) -> int:
        return len(self.data_labels)

    def labels(self, ids: Sequence[int]) -> list[str]:
        return [f"{i * self.step:g} degrees" for i in ids]

    def id_of(self, asked: int | str) -> int:
        return asked if isinstance(asked, int) else round(float(asked.split()[0]) / self.step)

    def draw(self, among: Tensor, n: int, rng: torch.Generator) -> Tensor:
        return among[torch.randint(len(among), (n,), generator=rng, device=among.device)]

    def embed(self, ids: Tensor) -> Tensor:
        radians = ids * (self.step * math.pi / 180)
        return torch.stack([radians.cos(), radians.sin()], dim=1)


def two(labels: tuple[str, ...]) -> Conditions:
    return Classes.numbered(2)


def first_alone(conditions: Conditions, config: PartitionConfig) -> list[int]:
    return [min(i, config.k - 1) for i in range(conditions.n)]


def all_in_one(conditions: Conditions, config: PartitionConfig) -> list[int]:
    return [0] * conditions.n


def too_few(conditions: Conditions, config: PartitionConfig) -> list[int]:
    return [0, 1]


def broken(conditions: Conditions, config: PartitionConfig) -> list[int]:
    raise RuntimeError("no idea")
