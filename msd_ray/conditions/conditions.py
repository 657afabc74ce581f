"""What an ensemble can be asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msd_ray.diffusion import EDMDenoiser
from msd_ray.errors import UserError
from msd_ray.rng import derived_seed

SHOWN, LONG = 6, 60
"""Labels that are named before the rest is only counted; characters beyond which one of them is cut."""
Condition = int | str
"""What a request asks for: an id, or a text where conditions are open."""


@dataclass(frozen=True)
class Embedded:
    """A text with what networks take for it, float32, [width] or [n, width]: a process that has this needs no text
    encoder. It is equal to others of the same text."""

    text: str
    vectors: NDArray[np.float32] = field(compare=False, repr=False)


class Conditions(Protocol):
    """All conditions of an ensemble. An id, 0 to n - 1, stands for one of them in data, partitions and figures; what an
    id means is decided here and in the networks. Open ones are more than can be counted: those with an id are what
    students are trained on, and requests ask with any text."""

    @property
    def n(self) -> int: ...

    @property
    def is_open(self) -> bool: ...

    @property
    def called(self) -> tuple[str, str]:
        """What one of them is called, and several."""
        ...

    @property
    def width(self) -> int:
        """Of the vector that a network takes for one; of class numbers, how many there are."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes with what a condition stands for, where neither data set nor recipe say that."""
        ...

    @property
    def kept(self) -> tuple[str, ...]:
        """The labels that are kept beside weights, of which these conditions can be made again."""
        ...

    def labels(self, ids: Sequence[int]) -> list[str]:
        """The name of each of these."""
        ...

    def id_of(self, asked: Condition) -> Condition:
        """The condition that a user asks for, by number or in words: its id, or a text where conditions are open.
        Raises UserError where there is none."""
        ...

    def asked(self, ids: Tensor) -> list[Condition]:
        """What a request asks for to get these ids [B], as `id_of` gives it."""
        ...

    def draw(self, among: Tensor, n: int, rng: torch.Generator) -> Tensor:
        """n of the ids `among` [M] at random, as a student trains on them: [n], on the device of both."""
        ...

    def encode(self, wanted: Tensor | Sequence[Condition]) -> Tensor:
        """What denoisers take for the ids [B], or for each of what `id_of` gives: [B, ...], on the device of the ids.
        This is what processes send each other, so that a teacher need not know all conditions."""
        ...

    def embed(self, encoded: Tensor) -> Tensor:
        """What a network takes for encoded conditions [B, ...]: these themselves, or vectors on the same device."""
        ...

    def vectors(self, encoded: Tensor) -> Tensor:
        """By which rules compare encoded conditions [B, ...]: [B, d]."""
        ...

    def both(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """What `embed` and `vectors` give, computed together."""
        ...

    @property
    def embedded_shape(self) -> tuple[int, ...]:
        """Of what a network takes for one text; empty where conditions are not open."""
        ...

    @property
    def unconditional(self) -> Tensor | None:
        """What stands, encoded, for no condition, [...]; None where a teacher never learns that."""
        ...


class Listed(Protocol):
    """A user's own conditions, one for each label of the data set, with methods as `Conditions` has them."""

    @property
    def n(self) -> int: ...

    def labels(self, ids: Sequence[int]) -> list[str]: ...

    def id_of(self, asked: Condition) -> int: ...

    def draw(self, among: Tensor, n: int, rng: torch.Generator) -> Tensor: ...

    def embed(self, ids: Tensor) -> Tensor: ...


class _Countable:
    """What class numbers and a user's own have in common: denoisers take their ids."""

    is_open = False
    called = ("class", "classes")
    fingerprint = ""
    unconditional = None
    kept: tuple[str, ...]

    @property
    def n(self) -> int:
        return len(self.kept)

    @property
    def width(self) -> int:
        return self.n

    def asked(self, ids: Tensor) -> list[Condition]:
        known: list[Condition] = ids.tolist()
        return known

    def encode(self, wanted: Tensor | Sequence[Condition]) -> Tensor:
        return wanted if isinstance(wanted, Tensor) else torch.tensor(wanted, dtype=torch.long)

    def embed(self, encoded: Tensor) -> Tensor:
        return encoded

    def vectors(self, encoded: Tensor) -> Tensor:
        """Each is as far from all others."""
        return torch.nn.functional.one_hot(encoded, self.n).float()

    def both(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        return self.embed(encoded), self.vectors(encoded)

    @property
    def embedded_shape(self) -> tuple[int, ...]:
        return ()


@dataclass(frozen=True)
class Classes(_Countable):
    """Class numbers, which networks take as they are. kept: the name of each class."""

    kept: tuple[str, ...]

    @classmethod
    def numbered(cls, n: int) -> "Classes":
        """n classes that are named by their numbers."""
        return cls(tuple(map(str, range(n))))

    def labels(self, ids: Sequence[int]) -> list[str]:
        return [self.kept[i] for i in ids]

    def id_of(self, asked: Condition) -> int:
        """Of equal names the first class."""
        if isinstance(asked, str):
            if asked not in self._ids:
                raise UserError(f"no class is called {asked[:64]!r}")
            return self._ids[asked]
        if not 0 <= asked < self.n:
            raise UserError(f"there is no class {asked}, only 0 to {self.n - 1}")
        return asked

    def draw(self, among: Tensor, n: int, rng: torch.Generator) -> Tensor:
        return at_random(among, n, rng)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {name: i for i, name in reversed(list(enumerate(self.kept)))}


@dataclass(frozen=True)
class Own(_Countable):
    """A user's own conditions. kept: the labels of the data set."""

    theirs: Listed
    kept: tuple[str, ...]

    def labels(self, ids: Sequence[int]) -> list[str]:
        return self.theirs.labels(ids)

    def id_of(self, asked: Condition) -> int:
        return self.theirs.id_of(asked)

    def draw(self, among: Tensor, n: int, rng: torch.Generator) -> Tensor:
        return self.theirs.draw(among, n, rng)

    def embed(self, encoded: Tensor) -> Tensor:
        return self.theirs.embed(encoded)


def at_random(among: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """n of the ids `among` [M], each as likely as the others: [n]."""
    return among[torch.randint(len(among), (n,), generator=rng, device=among.device)]


def conditioned(denoiser: EDMDenoiser, conditions: Conditions) -> EDMDenoiser:
    """The denoiser itself. It and its copies then give their networks what encoded conditions stand for."""
    denoiser.embed = lambda given: conditions.embed(given)  # a function, which copies share; a method they would copy
    return denoiser


@dataclass(frozen=True)
class Owned:
    """The conditions that one part owns. ids: theirs, rising, [M]."""

    conditions: Conditions
    ids: Tensor

    def to(self, device: torch.device) -> "Owned":
        return replace(self, ids=self.ids.to(device))

    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        """n at random, encoded, [n, ...]; as `Conditions.draw`."""
        return self.conditions.encode(self.conditions.draw(self.ids, n, rng))

    def in_turn(self, n: int) -> Tensor:
        """The first n of them, over and over, encoded: [n, ...]."""
        return self.conditions.encode(in_turn(self.ids, torch.arange(n)))


def in_turn(ids: Tensor, numbers: Tensor) -> Tensor:
    """The condition of each of the samples `numbers` [B] of a set that takes the ids [M] one after the other and over
    again: [B]."""
    return ids[numbers % len(ids)]


def spread(condition: Condition, seed: int, places: int) -> int:
    """One of so many places. Consecutive seeds spread evenly, also with conditions in turn.

    With a factor of 1 the usual pairs (seed i, condition i mod 10) would share every other place; with 0 all
    conditions of one seed would have one. The factor 2 does neither.
    """
    number = derived_seed("prompt", condition) if isinstance(condition, str) else condition
    return (seed + 2 * number) % places


def named(conditions: Conditions, ids: Sequence[int], most: int = SHOWN) -> str:
    """ "class 3", "classes 1, 2" or "20 classes: 0, 1, 2, 3, 4, 5, ..."."""
    one, several = conditions.called
    shown = ", ".join(map(short, conditions.labels(ids[:most])))
    if len(ids) > most:
        return f"{len(ids)} {several}: {shown}, ..."
    return f"{one if len(ids) == 1 else several} {shown}"


def short(label: str) -> str:
    """As it stands in tables."""
    return label if len(label) <= LONG else f"{label[: LONG - 3]}..."
