"""The parts of prompts as regions of a plane, for people to look at."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from msd_ray.conditions.rules import Keywords, Nearest, Quadrants, Rule


@dataclass(frozen=True)
class Region:
    """Of one part: the points whose squared distance from (x, y), plus weight, is least. words: by which the part is
    chosen instead, where the rule looks at words; then there is no plane."""

    x: float = 0.0
    y: float = 0.0
    weight: float = 0.0
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptMap:
    """regions: of each part. middle, axes: of the plane, [n] and [n, 2], in the first n entries of vectors; None where
    there is none."""

    regions: tuple[Region, ...]
    middle: NDArray[np.float64] | None = field(default=None, compare=False, repr=False)
    axes: NDArray[np.float64] | None = field(default=None, compare=False, repr=False)

    def position_of(self, vector: NDArray[np.float64]) -> tuple[float, ...]:
        """Where a prompt with this vector [d] lies; empty where there is no plane."""
        if self.middle is None or self.axes is None:
            return ()
        x, y = ((vector[: len(self.middle)] - self.middle) @ self.axes).tolist()
        return x, y


def map_of(rule: Rule) -> PromptMap:
    """Of a rule of centres the plane is spanned by the two directions in which they differ most. Up to three centres
    lie in it, so that a prompt is in the region of its part; of more that is only nearly so. Of quadrants the plane is
    that of the vector's first two entries."""
    if isinstance(rule, Nearest):
        return _of_centres(rule.centres.astype(np.float64), rule.prices)
    if isinstance(rule, Quadrants):
        # part number 2 * above + right, and any four points with these signs
        corners = tuple(Region(2.0 * (part % 2) - 1, 2.0 * (part // 2) - 1) for part in range(rule.parts))
        return PromptMap(corners, np.zeros(2), np.eye(2))
    words = rule.words if isinstance(rule, Keywords) else ()
    return PromptMap(tuple(Region(words=each) for each in (*words, *[()] * (rule.parts - len(words)))))


def _of_centres(centres: NDArray[np.float64], prices: Sequence[float]) -> PromptMap:
    middle = centres.mean(axis=0)
    _, _, directions = np.linalg.svd(centres - middle, full_matrices=False)
    axes = np.zeros((centres.shape[1], 2))
    axes[:, : len(directions)] = directions[:2].T
    axes *= np.where(axes[np.abs(axes).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)  # a singular vector's sign means nothing
    flat = (centres - middle) @ axes
    off = np.square(centres - middle).sum(axis=1) - np.square(flat).sum(axis=1)
    found = zip(flat.tolist(), (off + prices).tolist(), strict=True)
    return PromptMap(tuple(Region(x, y, weight) for (x, y), weight in found), middle, axes)
