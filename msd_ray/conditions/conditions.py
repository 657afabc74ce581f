"""What an ensemble can be asked for."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from msd_ray.diffusion import EDMDenoiser
from msd_ray.errors import CorruptError, UserError, one_line
from msd_ray.own_code import imported, is_own, refuse_strange

CLASSES = "classes"
SHOWN = 6
"""Labels that are named before the rest is only counted."""


class Conditions(Protocol):
    """All conditions of an ensemble. An id, 0 to n - 1, stands for one of them in data, batches, requests and messages;
    what an id means is decided here and in the networks."""

    @property
    def n(self) -> int: ...

    def labels(self, ids: Sequence[int]) -> list[str]:
        """The name of each of these."""
        ...

    def id_of(self, asked: int | str) -> int:
        """The condition that a user asks for, by number or in words. Raises UserError where there is none."""
        ...

    def draw(self, among: Tensor, n: int, rng: torch.Generator) -> Tensor:
        """n of the ids `among` [M] at random, as a student trains on them: [n], on the device of both."""
        ...

    def embed(self, ids: Tensor) -> Tensor:
        """What a network takes for ids [B]: these themselves, or vectors [B, ...] on the same device."""
        ...


@dataclass(frozen=True)
class ConditionsConfig:
    """kind: what a condition is: `classes` are the labels of the data set, and `module:Class` is one of the user's own,
    which is called with these labels and `options` and returns a `Conditions`."""

    kind: str = CLASSES
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.kind != CLASSES and not is_own(self.kind):
            raise ValueError(f"there is no kind {self.kind!r}, only {CLASSES}, or your own module:Class")
        if self.options and not is_own(self.kind):
            raise ValueError(f"options are those of a module:Class; {self.kind} has none")


@dataclass(frozen=True)
class Classes:
    """Class numbers, which networks take as they are. names: of each class."""

    names: tuple[str, ...]

    @classmethod
    def numbered(cls, n: int) -> "Classes":
        """n classes that are named by their numbers."""
        return cls(tuple(map(str, range(n))))

    @property
    def n(self) -> int:
        return len(self.names)

    def labels(self, ids: Sequence[int]) -> list[str]:
        return [self.names[i] for i in ids]

    def id_of(self, asked: int | str) -> int:
        """Of equal names the first class."""
        if isinstance(asked, str):
            if asked not in self._ids:
                raise UserError(f"no class is called {asked[:64]!r}")
            return self._ids[asked]
        if not 0 <= asked < self.n:
            raise UserError(f"there is no class {asked}, only 0 to {self.n - 1}")
        return asked

    def draw(self, among: Tensor, n: int, rng: torch.Generator) -> Tensor:
        return among[torch.randint(len(among), (n,), generator=rng, device=among.device)]

    def embed(self, ids: Tensor) -> Tensor:
        return ids

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {name: i for i, name in reversed(list(enumerate(self.names)))}


def make_conditions(config: ConditionsConfig, labels: tuple[str, ...]) -> Conditions:
    """Those that `config` describes. Raises UserError where a user's own cannot be had."""
    if config.kind == CLASSES:
        return Classes(labels)
    make = imported(config.kind, "conditions.kind")
    try:
        made: Conditions = make(labels, **config.options)
    except Exception as error:  # whatever the user's module does
        raise UserError(f"conditions.kind: {config.kind} gives no conditions: {one_line(error)}") from None
    if made.n != len(labels):
        raise UserError(f"conditions.kind: {config.kind} has {made.n} conditions, the data set {len(labels)}")
    return made


@dataclass(frozen=True)
class ConditionsSpec:
    """What is needed to make conditions, stored beside the weights that know them. labels: of the data set."""

    config: ConditionsConfig
    labels: tuple[str, ...]

    def make(self) -> Conditions:
        """Raises UserError as `make_conditions`, and for a user's own that this process may not import."""
        refuse_strange(self.config.kind, "kind of conditions", "the description of an ensemble or teacher")
        return make_conditions(self.config, self.labels)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self.config), "labels": list(self.labels)}

    @classmethod
    def from_json(cls, raw: Any) -> "ConditionsSpec":
        """The inverse of `to_json`, of what a directory has; without kind and options it is of classes. Raises
        CorruptError for anything else."""
        try:
            kind, options = str(raw.get("kind", CLASSES)), dict(raw.get("options", {}))
            return cls(ConditionsConfig(kind, options), tuple(str(label) for label in raw["labels"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptError(f"not a description of conditions: {error}") from error


def conditioned(denoiser: EDMDenoiser, conditions: Conditions) -> EDMDenoiser:
    """The denoiser itself. It and its copies then take ids, and give their networks what these stand for."""
    denoiser.embed = lambda ids: conditions.embed(ids)  # a function, which copies share; a method they would copy
    return denoiser


@dataclass(frozen=True)
class Owned:
    """The conditions that one part owns. ids: theirs, rising, [M]."""

    conditions: Conditions
    ids: Tensor

    def to(self, device: torch.device) -> "Owned":
        return replace(self, ids=self.ids.to(device))

    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        """n at random, [n]; as `Conditions.draw`."""
        return self.conditions.draw(self.ids, n, rng)

    def in_turn(self, n: int) -> Tensor:
        """The first n of them, over and over: [n]."""
        return in_turn(self.ids, torch.arange(n))


def in_turn(ids: Tensor, numbers: Tensor) -> Tensor:
    """The condition of each of the samples `numbers` [B] of a set that takes the ids [M] one after the other and over
    again: [B]."""
    return ids[numbers % len(ids)]


def spread(condition: int, seed: int, places: int) -> int:
    """One of so many places. Consecutive seeds spread evenly, also with conditions in turn.

    With a factor of 1 the usual pairs (seed i, condition i mod 10) would share every other place; with 0 all
    conditions of one seed would have one. The factor 2 does neither.
    """
    return (seed + 2 * condition) % places


def named(labels: Sequence[str], most: int = SHOWN) -> str:
    """ "class 3", "classes 1, 2" or "20 classes: 0, 1, 2, 3, 4, 5, ..."."""
    shown = ", ".join(labels[:most])
    if len(labels) > most:
        return f"{len(labels)} classes: {shown}, ..."
    return f"{'class' if len(labels) == 1 else 'classes'} {shown}"
