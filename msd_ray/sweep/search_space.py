"""The search space: its dimensions, and how a choice becomes changes to a recipe."""

import itertools
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from msd_ray.errors import UserError
from msd_ray.rng import derived_seed

Choice = dict[str, Any]
"""A trial's place in the space: for each dimension, by name, a label or a number."""
RANGES = ("uniform", "log", "integer")
TRIES = 100
"""Draws in a row that a random search tries before it takes a combination a second time."""


@dataclass(frozen=True)
class Options:
    """A dimension with a list of values. changes: for each label the recipe's values, by path."""

    name: str
    changes: dict[Any, dict[str, Any]]

    @property
    def labels(self) -> list[Any]:
        return list(self.changes)

    def draw(self, rng: random.Random) -> Any:
        return rng.choice(self.labels)

    def changes_for(self, label: Any) -> dict[str, Any]:
        return self.changes[label]


@dataclass(frozen=True)
class Range:
    """A number of the recipe, at path `name`, from low to high, both included. kind: uniform, log (uniform in its
    logarithm) or integer."""

    name: str
    kind: str
    low: float
    high: float

    @property
    def labels(self) -> list[Any]:
        """The range's two ends: a check looks at these for all values."""
        return [self.low, self.high]

    def draw(self, rng: random.Random) -> Any:
        if self.kind == "integer":
            return rng.randint(int(self.low), int(self.high))
        if self.kind == "log":
            return math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return rng.uniform(self.low, self.high)

    def changes_for(self, number: Any) -> dict[str, Any]:
        return {self.name: number}


Dimension = Options | Range
Space = tuple[Dimension, ...]


def parse_space(raw: dict[str, Any]) -> Space:
    """`path: [values]`, `path: {log: [low, high]}` (or uniform, integer), or `name: {label: {path: value, ...}, ...}`.

    Raises UserError for a dimension that is none of these, and for an empty one.
    """
    if not raw:
        raise UserError("space: it is empty; give at least one dimension")
    return tuple(_dimension(str(name), said) for name, said in raw.items())


def _dimension(name: str, said: Any) -> Dimension:
    if isinstance(said, list) and said:
        return Options(name, {_label(value): {name: value} for value in said})
    if isinstance(said, dict) and len(said) == 1 and next(iter(said)) in RANGES:
        return _range(name, *next(iter(said.items())))
    if isinstance(said, dict) and said and all(isinstance(changes, dict) for changes in said.values()):
        return Options(name, said)
    if said in ([], {}):
        raise UserError(f"space.{name}: it is empty; give at least one value")
    raise UserError(
        f"space.{name}: give a list of values, a range such as {{log: [1e-4, 1e-2]}} ({', '.join(RANGES)}), or a name "
        f"for each set of values, such as {{small: {{student.channel_factor: 0.5}}}}"
    )


def _label(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) else json.dumps(value)


def _range(name: str, kind: str, ends: Any) -> Range:
    numbers = isinstance(ends, list) and len(ends) == 2 and all(type(end) in (int, float) for end in ends)
    if not numbers:
        raise UserError(f"space.{name}.{kind}: give two numbers, [lowest, highest]")
    low, high = ends
    if not low < high:
        raise UserError(f"space.{name}.{kind}: the range from {low:g} to {high:g} is empty")
    if kind == "log" and low <= 0:
        raise UserError(f"space.{name}.log: the lowest must be above 0, not {low:g}")
    if kind == "integer" and {type(low), type(high)} != {int}:
        raise UserError(f"space.{name}.integer: give two whole numbers")
    return Range(name, kind, low, high)


def grid(space: Space) -> list[Choice]:
    """Every combination, the last dimension fastest. Raises UserError if a dimension is a range."""
    for dimension in space:
        if isinstance(dimension, Range):
            raise UserError(f"space.{dimension.name}: a grid needs a list of values; random and optuna take a range")
    names = [dimension.name for dimension in space]
    return [dict(zip(names, labels, strict=True)) for labels in itertools.product(*(d.labels for d in space))]


def draws(space: Space, seed: int, number: int) -> list[Choice]:
    """The first `number` random choices of a seed; a larger number begins with the same choices. None comes twice,
    unless `TRIES` draws in a row had come before."""
    made: list[Choice] = []
    for i in range(number):
        rng = random.Random(derived_seed("sweep", seed, i))
        tries = ({d.name: d.draw(rng) for d in space} for _ in range(TRIES))
        choice = next((c for c in tries if c not in made), None)
        made.append(choice or {d.name: d.draw(rng) for d in space})
    return made


def combinations(space: Space) -> int | None:
    """How many different choices there are, None for more than can be counted."""
    if any(isinstance(d, Range) and d.kind != "integer" for d in space):
        return None
    return math.prod(len(_values(d)) for d in space)


def another(space: Space, known: Sequence[Choice]) -> Choice:
    """The first choice that is not among the known ones, the last dimension fastest, of a space that has one."""
    names = [d.name for d in space]
    choices = (dict(zip(names, labels, strict=True)) for labels in itertools.product(*map(_values, space)))
    return next(choice for choice in choices if choice not in known)


def _values(dimension: Dimension) -> Sequence[Any]:
    """The values of a dimension, if it has a finite number."""
    return dimension.labels if isinstance(dimension, Options) else range(int(dimension.low), int(dimension.high) + 1)


def probes(space: Space) -> Iterator[Choice]:
    """Choices in which every label, and every end of a range, occurs: the first of each, then one dimension changed at
    a time."""
    first = {d.name: d.labels[0] for d in space}
    yield first
    for d in space:
        yield from ({**first, d.name: label} for label in d.labels[1:])


def changes_of(space: Sequence[Dimension], choice: Choice) -> dict[str, Any]:
    """The recipe's values by path; if two dimensions set the same path, the later one wins."""
    merged: dict[str, Any] = {}
    for dimension in space:
        merged |= dimension.changes_for(choice[dimension.name])
    return merged
