"""The partition of conditions, and where wanted of noise levels, among the students of an ensemble.

MSD (arXiv 2410.23274) divides the conditions, O2MKD (arXiv 2410.04191) the timesteps; a grid divides both. The same
object filters what a student is trained on and routes requests to the student that owns them.
"""

import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from msd_ray.errors import CorruptError, UserError


@dataclass(frozen=True)
class Partition:
    """kind: how it was fitted. owners: the part of the conditions that each condition belongs to; without borders parts
    are students. borders: rising noise levels between the intervals that the students of one part divide among them.

    Parts are 0..parts-1; each holds at least one condition, and none two more than another. Student number
    part * intervals + interval has the conditions of its part in its interval; interval 0 has the lowest levels. A
    level exactly on a border belongs to the interval below it.
    """

    kind: str
    owners: tuple[int, ...]
    borders: tuple[float, ...] = ()

    @property
    def parts(self) -> int:
        """Number of parts that the conditions are divided into."""
        return max(self.owners) + 1

    @property
    def intervals(self) -> int:
        """Number of intervals that the noise levels are divided into."""
        return len(self.borders) + 1

    @property
    def k(self) -> int:
        """Number of students."""
        return self.parts * self.intervals

    def route(self, conditions: Tensor, sigma: Tensor | None = None) -> Tensor:
        """The student of each of `conditions` [B] (class indices, an integer type): [B], int64, on the same device.

        sigma: the noise level of each [B], which only a partition with borders looks at. Raises UserError for a
        condition that nobody owns, and where borders ask for a sigma that is not given.
        """
        part = self.part_of(conditions)
        if not self.borders:
            return part
        if sigma is None:
            raise UserError("these students share the noise levels: which of them is asked depends on sigma as well")
        return part * self.intervals + self.interval_at(sigma)

    def part_of(self, conditions: Tensor) -> Tensor:
        """The part that each of `conditions` [B] belongs to: [B], int64. Raises UserError where there is none."""
        if conditions.is_floating_point() or conditions.is_complex() or conditions.dtype == torch.bool:
            raise UserError(f"conditions must be class indices (integers), not {conditions.dtype}")
        outside = conditions[(conditions < 0) | (conditions >= len(self.owners))]
        if len(outside):
            raise UserError(f"no condition {int(outside[0])}: valid ones are 0 to {len(self.owners) - 1}")
        return torch.tensor(self.owners, device=conditions.device)[conditions.long()]

    def interval_at(self, sigma: Tensor) -> Tensor:
        """The interval of each noise level [B]: [B], int64. The outer ones have no end."""
        return torch.bucketize(sigma.contiguous(), torch.tensor(self.borders, dtype=sigma.dtype, device=sigma.device))

    def conditions_of(self, student: int) -> tuple[int, ...]:
        """The conditions that a student owns, rising."""
        return tuple(condition for condition, part in enumerate(self.owners) if part == student // self.intervals)

    def interval_of(self, student: int) -> tuple[float, float]:
        """The noise levels that a student owns: above the first, up to the second; 0 and inf at the outer ends."""
        ends = (0.0, *self.borders, math.inf)
        interval = student % self.intervals
        return ends[interval], ends[interval + 1]

    def students_of(self, part: int) -> range:
        """The students that own a part of the conditions, lowest noise levels first."""
        return range(part * self.intervals, (part + 1) * self.intervals)

    def to_json(self) -> dict[str, Any]:
        """Without borders, just kind and owners, as before there were any."""
        said = {"kind": self.kind, "owners": list(self.owners)}
        return {**said, "borders": list(self.borders)} if self.borders else said

    @classmethod
    def from_json(cls, raw: Any) -> "Partition":
        """The inverse of `to_json`; raises CorruptError for anything that is not a valid partition."""
        if not isinstance(raw, dict) or set(raw) | {"borders"} != {"kind", "owners", "borders"}:
            raise CorruptError("not a partition: it needs the fields kind and owners, and may have borders")
        if not isinstance(raw["kind"], str):
            raise CorruptError("not a partition: its kind must be a word")
        return cls(raw["kind"], _owners(raw["owners"]), _borders(raw["borders"]) if "borders" in raw else ())


def _owners(raw: Any) -> tuple[int, ...]:
    if not isinstance(raw, list) or not raw or any(type(owner) is not int for owner in raw):
        raise CorruptError("not a partition: owners must list one student number per condition")
    sizes = Counter(raw)
    if sorted(sizes) != list(range(len(sizes))):
        raise CorruptError("not a partition: each student from 0 up must own a condition")
    if max(sizes.values()) - min(sizes.values()) > 1:
        raise CorruptError("not a partition: the students' shares differ by more than one condition")
    return tuple(raw)


def _borders(raw: Any) -> tuple[float, ...]:
    if not isinstance(raw, list) or not raw or any(type(border) is not float for border in raw):
        raise CorruptError("not a partition: borders must list noise levels")
    ends = [0.0, *raw, math.inf]
    if any(not low < high for low, high in pairwise(ends)):
        raise CorruptError("not a partition: borders must be positive, finite and rising")
    return tuple(raw)
