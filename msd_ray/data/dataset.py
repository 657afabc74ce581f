"""The data set noun and the one place that knows which data sets there are."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import torch
from torch import Tensor

from msd_ray.ranges import Seed, within


@dataclass(frozen=True)
class Samples:
    """Real samples. x: [N, C, H, W] images in [-1, 1], or [N, D] points. condition: [N] class indices."""

    x: Tensor
    condition: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def only(self, conditions: Tensor | list[int]) -> "Samples":
        """The samples whose class is among `conditions`."""
        keep = torch.isin(self.condition, torch.as_tensor(conditions))
        return Samples(self.x[keep], self.condition[keep])


@dataclass(frozen=True)
class DataSet:
    """train: what is trained on, and the reference of every metric. held_out: never trained on.

    labels: the name of each class.
    """

    train: Samples
    held_out: Samples
    labels: tuple[str, ...]

    @property
    def classes(self) -> int:
        return len(self.labels)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.train.x.shape[1:])


@dataclass(frozen=True)
class DataConfig:
    """name: which data set. classes, samples, seed: of toy2d, which is drawn at random; digits has its own."""

    name: Literal["digits", "toy2d"] = "digits"
    classes: Annotated[int, within(ge=1, le=10**5)] = 8
    samples: Annotated[int, within(ge=1, le=10**7)] = 8192
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.samples < self.classes:
            raise ValueError(f"samples ({self.samples}) must be at least one for each of the {self.classes} classes")


def load_data(config: DataConfig) -> DataSet:
    """The data set that `config` describes; the same one every time."""
    from msd_ray.data import digits, toy2d  # here, because both build on this module

    if config.name == "digits":
        return digits.load()
    return toy2d.load(config.classes, config.samples, config.seed)
