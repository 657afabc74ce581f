"""A data set of a user's own: stripes, made when they are asked for."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msd_ray.data import DataSet, Split

TAKEN: set[int] = set()
"""The classes of all images that were asked for in this process."""


@dataclass(frozen=True)
class Stripes:
    n: int
    classes: int
    first: int

    @property
    def shape(self) -> tuple[int, ...]:
        return 1, 8, 8

    def __len__(self) -> int:
        return self.n

    def take(self, indices: NDArray[np.int64]) -> Tensor:
        TAKEN.update((indices % self.classes).tolist())
        row = torch.arange(8).view(1, 8, 1).expand(len(indices), 8, 8)
        phase = torch.from_numpy(self.first + indices).view(-1, 1, 1)
        return (((row + phase) % (2 + phase % self.classes)) * 60 % 256).to(torch.uint8)[:, None]


def stripes(n: int, classes: int = 4) -> DataSet:
    def split(n: int, first: int) -> Split:
        return Split(Stripes(n, classes, first), torch.arange(n) % classes)

    names = tuple(f"{i + 2} rows" for i in range(classes))
    return DataSet(split(n, 0), split(n // 4, n), names, fingerprint=f"stripes {n} {classes}")


def nothing() -> str:
    return "no data set"


def brightness(x: Tensor) -> Tensor:
    """Features [B, 1]."""
    return x.flatten(1).mean(1, keepdim=True)


def no_features(x: Tensor) -> float:
    return 0.0
