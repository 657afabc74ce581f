"""What a data set is: samples that are read by their index, and never as a stream.

Which samples an update sees follows from the student's seed and the images it has seen, so a trainer that resumes asks
for the same ones. Whoever brings data of another kind writes a `Rows`, and a function that makes a `DataSet` of two of
them; docs/recipes.md shows one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Indices = NDArray[np.int64]
CHUNK = 1024
"""Samples that are read at a time where all are wanted."""


class Rows(Protocol):
    """Samples as they are stored. shape: of one, [C, H, W] or [D]."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def take(self, indices: Indices) -> Tensor:
        """Those with these indices [B], which may repeat: images uint8 [B, C, H, W] of 0 to 255, or float32 [B, ...]
        as networks see them, images in [-1, 1]. May be called from several threads."""
        ...


@dataclass(frozen=True)
class Samples:
    """Samples in memory. x: [N, C, H, W] images in [-1, 1], or [N, D] points. condition: [N] class indices."""

    x: Tensor
    condition: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device) -> "Samples":
        return Samples(self.x.to(device), self.condition.to(device))


@dataclass(frozen=True)
class InMemory:
    """Rows that are a tensor already. x: [N, ...] as `Rows.take` gives them."""

    x: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])

    def __len__(self) -> int:
        return len(self.x)

    def take(self, indices: Indices) -> Tensor:
        return self.x[torch.from_numpy(indices)]


@dataclass(frozen=True)
class Split:
    """Real samples, of which nothing is read before it is asked for. condition: [N], the class of each of `rows`. own:
    the indices in `rows` that belong to this split, rising; None for all. flips: whether trainers mirror half of what
    they take, left to right."""

    rows: Rows
    condition: Tensor
    own: Tensor | None = None
    flips: bool = False

    def __len__(self) -> int:
        return len(self.condition if self.own is None else self.own)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows.shape

    @property
    def bytes(self) -> int:
        """What all of it takes in memory as networks see it."""
        return len(self) * (4 * int(np.prod(self.shape)) + 8)

    @property
    def broken(self) -> dict[int, str]:
        """Images that were skipped so far, by their index in `rows`, and what is wrong with each."""
        return getattr(self.rows, "broken", {})

    @property
    def classes(self) -> Tensor:
        """The class of each of its samples, [N]."""
        return self.condition if self.own is None else self.condition[self.own]

    def only(self, ids: Tensor | Sequence[int]) -> "Split":
        """The samples whose condition is among `ids` [M]."""
        own = torch.arange(len(self.condition)) if self.own is None else self.own
        return replace(self, own=own[torch.isin(self.classes, torch.as_tensor(ids))])

    def thinned(self, n: int) -> "Split":
        """At most n of its samples, evenly spread: data may lie by class."""
        if len(self) <= n:
            return self
        own = torch.arange(len(self.condition)) if self.own is None else self.own
        return replace(self, own=own[torch.arange(n) * len(self) // n])

    def take(self, numbers: Tensor) -> Samples:
        """Those with these numbers [B] within the split, in that order."""
        numbers = numbers.cpu()
        indices = numbers if self.own is None else self.own[numbers]
        return Samples(as_seen(self.rows.take(indices.numpy())), self.condition[indices])

    def all(self) -> Samples:
        """The whole split in memory, read in chunks where it is not there already."""
        if isinstance(self.rows, InMemory) and self.own is None:
            return Samples(as_seen(self.rows.x), self.condition)
        pieces = [self.take(numbers) for numbers in torch.split(torch.arange(len(self)), CHUNK)]
        empty = torch.zeros(0, *self.shape)
        return Samples(torch.cat([empty, *(piece.x for piece in pieces)]), self.classes)


@dataclass(frozen=True)
class DataSet:
    """train: what is trained on, and the reference of every metric. held_out: never trained on. labels: the name of
    each class. fingerprint: changes with the samples, where the recipe alone does not say which they are."""

    train: Split
    held_out: Split
    labels: tuple[str, ...]
    fingerprint: str = ""

    @property
    def classes(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.train.shape


def in_memory(x: Tensor, condition: Tensor) -> Split:
    """x [N, ...] of the classes condition [N]."""
    return Split(InMemory(x), condition)


def as_seen(raw: Tensor) -> Tensor:
    """Stored samples as networks see them: float32, images in [-1, 1]."""
    return raw.float() / 127.5 - 1 if raw.dtype == torch.uint8 else raw
