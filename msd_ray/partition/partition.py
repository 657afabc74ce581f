"""The partition of the conditions among the students of an ensemble (MSD, arXiv 2410.23274).

The same object filters the conditions that a student is trained on and routes requests to the student that owns them.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from msd_ray.errors import CorruptError, UserError


@dataclass(frozen=True)
class Partition:
    """kind: how it was fitted. owners: the student that owns each condition.

    Students are 0..k-1; each owns at least one condition, and none owns two more than another.
    """

    kind: str
    owners: tuple[int, ...]

    @property
    def k(self) -> int:
        """Number of students."""
        return max(self.owners) + 1

    def route(self, conditions: Tensor, sigma: Tensor | None = None) -> Tensor:
        """The student of each of `conditions` [B] (class indices, an integer type): [B], int64, on the same device.

        sigma: the noise level of each, for partitions of the timesteps; this one routes by condition alone.
        Raises UserError for a condition that nobody owns.
        """
        if conditions.is_floating_point() or conditions.is_complex() or conditions.dtype == torch.bool:
            raise UserError(f"conditions must be class indices (integers), not {conditions.dtype}")
        outside = conditions[(conditions < 0) | (conditions >= len(self.owners))]
        if len(outside):
            raise UserError(f"no condition {int(outside[0])}: valid ones are 0 to {len(self.owners) - 1}")
        return torch.tensor(self.owners, device=conditions.device)[conditions.long()]

    def conditions_of(self, student: int) -> tuple[int, ...]:
        """The conditions that a student owns, rising."""
        return tuple(condition for condition, owner in enumerate(self.owners) if owner == student)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "owners": list(self.owners)}

    @classmethod
    def from_json(cls, raw: Any) -> "Partition":
        """The inverse of `to_json`; raises CorruptError for anything that is not a valid partition."""
        if not isinstance(raw, dict) or set(raw) != {"kind", "owners"} or not isinstance(raw["kind"], str):
            raise CorruptError("not a partition: it needs the fields kind and owners")
        owners = raw["owners"]
        if not isinstance(owners, list) or not owners or any(type(owner) is not int for owner in owners):
            raise CorruptError("not a partition: owners must list one student number per condition")
        sizes = Counter(owners)
        if sorted(sizes) != list(range(len(sizes))):
            raise CorruptError("not a partition: each student from 0 up must own a condition")
        if max(sizes.values()) - min(sizes.values()) > 1:
            raise CorruptError("not a partition: the students' shares differ by more than one condition")
        return cls(raw["kind"], tuple(owners))
