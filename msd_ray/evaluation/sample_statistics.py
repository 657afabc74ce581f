"""What is kept of a set of samples: enough to score it, and no more of it the larger the set is."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from msd_ray.data import Samples
from msd_ray.evaluation.feature_distances import Features, Moments, Numbers
from msd_ray.evaluation.features import FeatureNet
from msd_ray.training.state import State, Tensors

KEPT = 10_000
"""Samples of a set whose features are kept, for what moments are not enough: KID, precision, recall, the ratio to real
data. Of a larger set these are measured on as many, drawn once for all."""


@dataclass(frozen=True)
class SampleStatistics:
    """Some samples of a set. moments: of all their features.

    numbers [m], condition [m], features [m, d]: which of them are kept, rising, their classes and features. right: how
    many look like the class that they were asked for, None where nobody can tell. seconds: that it took to make them.
    radii [m]: of each that is kept, to its k-th neighbour among these; None where not known yet.
    """

    moments: Moments
    numbers: Numbers
    condition: Numbers
    features: Features
    right: int | None = None
    seconds: float = 0.0
    radii: Features | None = None

    @property
    def n(self) -> int:
        return self.moments.n

    def __add__(self, other: "SampleStatistics") -> "SampleStatistics":
        """Of both; the radii are then not known."""
        numbers = np.concatenate([self.numbers, other.numbers])
        order = np.argsort(numbers)
        return SampleStatistics(
            self.moments + other.moments,
            numbers[order],
            np.concatenate([self.condition, other.condition])[order],
            np.concatenate([self.features, other.features])[order],
            None if self.right is None or other.right is None else self.right + other.right,
            self.seconds + other.seconds,
        )

    def tensors(self) -> Tensors:
        m = self.moments
        arrays: dict[str, NDArray[Any]] = {"mean": m.mean, "scatter": m.scatter, "features": self.features}
        arrays |= {"numbers": self.numbers, "condition": self.condition}
        if self.radii is not None:
            arrays["radii"] = self.radii
        return {name: torch.from_numpy(value) for name, value in arrays.items()}


def to_state(spaces: Sequence[SampleStatistics]) -> State:
    """Of the same samples in several features. nimg: how many there are."""
    meta = {
        "nimg": spaces[0].n,
        "right": [space.right for space in spaces],
        "seconds": spaces[0].seconds,
    }
    return State({f"measured-{i}": space.tensors() for i, space in enumerate(spaces)}, meta)


def from_state(state: State) -> tuple[SampleStatistics, ...]:
    """The inverse of `to_state`."""

    def space(i: int, right: int | None) -> SampleStatistics:
        kept = {name: tensor.numpy() for name, tensor in state.tensors[f"measured-{i}"].items()}
        moments = Moments(state.meta["nimg"], kept.pop("mean"), kept.pop("scatter"))
        return SampleStatistics(moments, **kept, right=right, seconds=state.meta["seconds"])

    return tuple(space(i, right) for i, right in enumerate(state.meta["right"]))


def statistics_of(
    net: FeatureNet, samples: Samples, numbers: Numbers | None = None, keep: NDArray[np.bool_] | None = None
) -> SampleStatistics:
    """Of samples that are measured at once. numbers [N]: theirs in the set, rising. keep [N]: those whose features are
    kept. By default they are the whole set, and all are kept."""
    features, guess, condition = net.features(samples.x), net.classify(samples.x), samples.condition.cpu().numpy()
    numbers = np.arange(len(samples)) if numbers is None else numbers
    keep = np.ones(len(samples), dtype=bool) if keep is None else keep
    right = None if guess is None else int((guess.cpu().numpy() == condition).sum())
    return SampleStatistics(Moments.of(features), numbers[keep], condition[keep], features[keep], right)


def gathered(pieces: Sequence[SampleStatistics]) -> SampleStatistics:
    """Of all pieces, added in the order given, so that the figures do not depend on who measured which."""
    return reduce(SampleStatistics.__add__, pieces)


def interleaved(condition: Numbers) -> Numbers:
    """An order of samples of these classes [N] in which each stretch has about the same share of every class."""
    by_class = np.argsort(condition, kind="stable")
    counts = np.unique(condition, return_counts=True)[1]
    share = np.concatenate([(np.arange(n) + 0.5) / n for n in counts])
    order: Numbers = by_class[np.argsort(share, kind="stable")]
    return order
