"""The partition of conditions, and where wanted of noise levels, among the students of an ensemble.

MSD (arXiv 2410.23274) divides the conditions, O2MKD (arXiv 2410.04191) the timesteps; a grid divides both. The same
object filters what a student is trained on and routes requests to the student that owns them.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msd_ray.conditions.conditions import Condition, Conditions, Embedded, Owned
from msd_ray.conditions.rules import Rule, rule_of
from msd_ray.errors import CorruptError, UserError


class Router(Protocol):
    """Which part a condition belongs to."""

    @property
    def n(self) -> int:
        """How many conditions it knows."""
        ...

    @property
    def parts(self) -> int: ...

    def part_of(self, ids: Tensor) -> Tensor:
        """The part of each of the ids [B] (an integer type): [B], int64, on the same device. Raises UserError for one
        that no part owns."""
        ...

    def ids_of(self, part: int) -> Tensor:
        """The ids that a part owns, rising."""
        ...


@dataclass(frozen=True)
class Table:
    """owners: the part of each id from 0 up. Parts are 0..parts-1; each owns at least one id."""

    owners: tuple[int, ...]

    @property
    def n(self) -> int:
        return len(self.owners)

    @cached_property
    def parts(self) -> int:
        return max(self.owners) + 1

    def part_of(self, ids: Tensor) -> Tensor:
        if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise UserError(f"conditions must be class indices (integers), not {ids.dtype}")
        outside = ids[(ids < 0) | (ids >= self.n)]
        if len(outside):
            raise UserError(f"no condition {int(outside[0])}: valid ones are 0 to {self.n - 1}")
        return torch.from_numpy(self._owners).to(ids.device)[ids.long()]

    def ids_of(self, part: int) -> Tensor:
        return torch.from_numpy(np.flatnonzero(self._owners == part))

    def to_bytes(self) -> bytes:
        """As `numpy.load` reads it."""
        buffer = io.BytesIO()
        np.save(buffer, self._owners.astype(np.min_scalar_type(self.parts)))
        return buffer.getvalue()

    @cached_property
    def _owners(self) -> NDArray[np.int64]:
        return np.array(self.owners)


@dataclass(frozen=True)
class Place:
    """part: that a condition belongs to. margin: how much more the next part would cost by the rule, 0 where it costs
    as much; None where there is no rule or no other part."""

    part: int
    margin: float | None = None


def costs_of(rule: Rule, conditions: Conditions, wanted: Sequence[Condition]) -> NDArray[np.float64]:
    """What each part costs each of these by the rule, [B, parts]."""
    vectors = conditions.vectors(conditions.encode(wanted)) if rule.compares else torch.zeros(len(wanted), 0)
    return rule.costs(list(map(str, wanted)), vectors.double().numpy())


def placed(rule: Rule, conditions: Conditions, wanted: Sequence[Condition]) -> list[Place]:
    """The place of each of these, by the rule. It depends on none of the others."""
    return _places(costs_of(rule, conditions, wanted))


def prepared(
    rule: Rule, conditions: Conditions, wanted: Sequence[Condition]
) -> tuple[list[Condition | Embedded], list[Place], NDArray[np.float64]]:
    """Texts as students are to be asked for them, their places, and the vectors [B, d] that the rule compares. What
    networks take is computed here as well, since both come of one pass of the text encoder; where the rule compares
    none, d is 0 and a text stays one."""
    if not rule.compares:
        return list(wanted), placed(rule, conditions, wanted), np.zeros((len(wanted), 0))
    taken, vectors = conditions.both(conditions.encode(wanted))
    texts = list(map(str, wanted))
    asked = [Embedded(text, one) for text, one in zip(texts, taken.numpy(), strict=True)]
    compared: NDArray[np.float64] = vectors.double().numpy()
    return list(asked), _places(rule.costs(texts, compared)), compared


def _places(costs: NDArray[np.float64]) -> list[Place]:
    found = []
    for of_each in costs:
        least, *others = np.sort(of_each).tolist()
        found.append(Place(int(of_each.argmin()), others[0] - least if others else None))
    return found


OWNERS = "owners.npy"
"""The file, beside what describes a partition with a rule, that has the part of each id."""


@dataclass(frozen=True)
class Partition:
    """kind: how it was fitted. router: which part of the conditions each belongs to; without borders parts are
    students. borders: rising noise levels between the intervals that the students of one part divide among them. rule:
    of open conditions, which gives each id the part that the router has, and any text one.

    Student number part * intervals + interval has the conditions of its part in its interval; interval 0 has the lowest
    levels. A level exactly on a border belongs to the interval below it.
    """

    kind: str
    router: Table
    borders: tuple[float, ...] = ()
    rule: Rule | None = None

    @property
    def parts(self) -> int:
        """Number of parts that the conditions are divided into."""
        return self.router.parts

    @property
    def intervals(self) -> int:
        """Number of intervals that the noise levels are divided into."""
        return len(self.borders) + 1

    @property
    def k(self) -> int:
        """Number of students."""
        return self.parts * self.intervals

    def route(self, ids: Tensor, sigma: Tensor | None = None) -> Tensor:
        """The student of each of the conditions `ids` [B] (an integer type): [B], int64, on the same device.

        sigma: the noise level of each [B], which only a partition with borders looks at. Raises UserError for a
        condition that nobody owns, and where borders ask for a sigma that is not given.
        """
        part = self.router.part_of(ids)
        if not self.borders:
            return part
        if sigma is None:
            raise UserError("these students share the noise levels: which of them is asked depends on sigma as well")
        return part * self.intervals + self.interval_at(sigma)

    def interval_at(self, sigma: Tensor) -> Tensor:
        """The interval of each noise level [B]: [B], int64. The outer ones have no end. This is the one rule by which
        levels are trained and sampled; they are compared as float32 has them, in which samplers count."""
        borders = torch.tensor(self.borders, dtype=torch.float32, device=sigma.device)
        return torch.bucketize(sigma.float().contiguous(), borders)

    def steps_of(self, student: int, levels: Sequence[float]) -> tuple[float, ...]:
        """Of the levels at which generators make the steps of a sample, those that are this student's."""
        owners = self.interval_at(torch.tensor(levels, dtype=torch.float32)).tolist()
        return tuple(level for level, owner in zip(levels, owners, strict=True) if owner == student % self.intervals)

    def interval_of(self, student: int) -> tuple[float, float]:
        """The noise levels that a student owns: above the first, up to the second; 0 and inf at the outer ends."""
        ends = (0.0, *self.borders, math.inf)
        interval = student % self.intervals
        return ends[interval], ends[interval + 1]

    def students_of(self, part: int) -> range:
        """The students that own a part of the conditions, lowest noise levels first."""
        return range(part * self.intervals, (part + 1) * self.intervals)

    def part_of_student(self, student: int) -> int:
        """The part of the conditions that a student owns, alone or with others."""
        return student // self.intervals

    def owned_by_parts(self, parts: range, conditions: Conditions) -> Owned:
        """The conditions of some parts, which a trunk is trained on."""
        ids = torch.cat([self.router.ids_of(part) for part in parts])
        return Owned(conditions, ids.sort().values)

    def owned_by(self, student: int, conditions: Conditions) -> Owned:
        """The conditions that a student owns."""
        return Owned(conditions, self.router.ids_of(self.part_of_student(student)))

    def place(self, conditions: Conditions, wanted: Sequence[Condition]) -> list[Place]:
        """Where each of these belongs, which are as `Conditions.id_of` gives them. Raises UserError for an id that no
        part owns."""
        if self.rule:
            return placed(self.rule, conditions, wanted)
        return [Place(part) for part in self.router.part_of(conditions.encode(wanted)).tolist()]

    def prepared(
        self, conditions: Conditions, wanted: Sequence[Condition]
    ) -> tuple[list[Condition | Embedded], list[Place]]:
        """These as students are to be asked for them, and their places, as `place` gives them."""
        if self.rule:
            return prepared(self.rule, conditions, wanted)[:2]
        return list(wanted), self.place(conditions, wanted)

    def to_json(self) -> dict[str, Any]:
        """Without borders and rule, just kind and owners, as before there were any. With a rule the owners are in
        `files`, since they may be a million."""
        said: dict[str, Any] = {"kind": self.kind, "owners": list(self.router.owners)}
        if self.rule:
            said = {"kind": self.kind, "rule": self.rule.to_json()}
        return {**said, "borders": list(self.borders)} if self.borders else said

    def for_texts_alone(self) -> dict[str, Any]:
        """As `to_json` of one with a rule, where nobody asks by id: each part owns one, and no file is needed."""
        return {**self.to_json(), "owners": list(range(self.parts))}

    @property
    def files(self) -> dict[str, bytes]:
        """What is kept beside the description, by name."""
        return {OWNERS: self.router.to_bytes()} if self.rule else {}

    @classmethod
    def from_json(cls, raw: Any, read: Callable[[str], bytes] | None = None) -> "Partition":
        """The inverse of `to_json`; raises CorruptError for anything that is not a valid partition. read: the content
        of each of `files`."""
        if not isinstance(raw, dict) or set(raw) | {"borders"} not in (
            {"kind", "borders", *parts} for parts in (("owners",), ("rule",), ("owners", "rule"))
        ):
            raise CorruptError("not a partition: it needs the fields kind and owners or rule, and may have borders")
        if not isinstance(raw["kind"], str):
            raise CorruptError("not a partition: its kind must be a word")
        borders = _borders(raw["borders"]) if "borders" in raw else ()
        if "rule" in raw and ("owners" in raw or read):
            owners = raw["owners"] if "owners" in raw or not read else _read_owners(read(OWNERS))
            router, rule = _table(owners), rule_of(raw["rule"])
            if router.parts != rule.parts:
                raise CorruptError(f"not a partition: its rule makes no sense for {router.parts} parts")
            return cls(raw["kind"], router, borders, rule)
        return cls(raw["kind"], _table(raw["owners"]), borders)


def _read_owners(content: bytes) -> list[int]:
    try:
        owners: list[int] = np.load(io.BytesIO(content), allow_pickle=False).tolist()
    except ValueError as error:
        raise CorruptError(f"not a partition: its {OWNERS} is damaged: {error}") from None
    return owners


def _table(raw: Any) -> Table:
    if not isinstance(raw, list) or not raw or any(type(owner) is not int for owner in raw):
        raise CorruptError("not a partition: owners must list one student number per condition")
    found = set(raw)
    if found != set(range(len(found))):
        raise CorruptError("not a partition: each student from 0 up must own a condition")
    return Table(tuple(raw))


def _borders(raw: Any) -> tuple[float, ...]:
    if not isinstance(raw, list) or not raw or any(type(border) is not float for border in raw):
        raise CorruptError("not a partition: borders must list noise levels")
    ends = [0.0, *raw, math.inf]
    if any(not low < high for low, high in pairwise(ends)):
        raise CorruptError("not a partition: borders must be positive, finite and rising")
    return tuple(raw)
