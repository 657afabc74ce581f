"""Images of one size in a file that is not packed, each read where it lies."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from msd_ray.data.source import Indices, Rows
from msd_ray.errors import UserError
from msd_ray.storage import Store


@dataclass(frozen=True)
class Records:
    """Rows of `n` images uint8 of `shape`, the first of which begins at byte `begin`, and the next ones `step` bytes
    after it each."""

    store: Store
    name: str
    n: int
    shape: tuple[int, ...]
    begin: int
    step: int

    def __len__(self) -> int:
        return self.n

    def take(self, indices: Indices) -> Tensor:
        size = int(np.prod(self.shape))
        found = np.empty((len(indices), size), dtype=np.uint8)
        for row, index in zip(found, indices, strict=True):
            data = self.store.read_range(self.name, self.begin + int(index) * self.step, size)
            if len(data) != size:
                raise UserError(f"{self.store.uri}/{self.name} is cut short: it has no image {index}")
            row[:] = np.frombuffer(data, np.uint8)
        return torch.from_numpy(found).view(-1, *self.shape)


class Joined:
    """Rows of one shape one after the other."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts, self.shape = parts, parts[0].shape
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, indices: Indices) -> Tensor:
        of = np.searchsorted(self._ends, indices, side="right")
        found = torch.empty(len(indices), *self.shape, dtype=torch.uint8)
        for number in np.unique(of).tolist():
            part, here = self._parts[number], of == number
            found[torch.from_numpy(here)] = part.take(indices[here] - int(self._ends[number]) + len(part))
        return found
