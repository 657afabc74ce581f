"""Mean and covariance of features, which can be gathered piece by piece."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """n: rows seen. mean: [d]. scatter: [d, d], the sum of (x - mean)(x - mean)^T over them.

    Sums are rounded, so the last bits of a total depend on the order in which pieces are added: whoever wants equal
    figures adds equal pieces in the same order.
    """

    n: int
    mean: Features
    scatter: Features

    @staticmethod
    def of(x: Features) -> "Moments":
        """Of the rows of x [N, d], at least one."""
        mean = x.mean(0)
        return Moments(len(x), mean, (x - mean).T @ (x - mean))

    def __add__(self, other: "Moments") -> "Moments":
        """Of the rows of both (Chan, Golub and LeVeque 1983), without the cancellation of sums of squares."""
        n, gap = self.n + other.n, other.mean - self.mean
        mean = self.mean + gap * (other.n / n)
        return Moments(n, mean, self.scatter + other.scatter + np.outer(gap, gap) * (self.n * other.n / n))

    @property
    def covariance(self) -> Features:
        """[d, d], unbiased; needs two rows."""
        return self.scatter / (self.n - 1)
