"""What a network of features is, in which samples are compared."""

from typing import Protocol

from torch import Tensor

from msd_ray.evaluation.feature_distances import Features


class FeatureNet(Protocol):
    """A frozen map from samples to features; also a classifier where there is one."""

    @property
    def name(self) -> str: ...

    def features(self, x: Tensor) -> Features:
        """x [N, C, H, W] in [-1, 1] or points [N, D] -> [N, d] float64."""
        ...

    def classify(self, x: Tensor) -> Tensor | None:
        """The class that each sample looks like, [N] int64; None where the network knows no classes."""
        ...
