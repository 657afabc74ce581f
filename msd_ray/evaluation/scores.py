"""How good samples are, measured against real ones."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from msd_ray.data import Samples
from msd_ray.evaluation.config import EvaluationConfig
from msd_ray.evaluation.distances import frechet, kernel, precision_recall
from msd_ray.evaluation.features import FeatureNet
from msd_ray.evaluation.moments import Features, Moments

KID_SUBSET_SIZE = 1000


@dataclass(frozen=True)
class Scores:
    """n: samples scored. fid, kid: lower is better. precision, recall: in 0..1, higher is better.

    agreement: the share of samples that look like the class they were asked for; None where features know no classes.
    A score is nan where it is undefined: too few samples, or samples that are not finite.
    """

    n: int
    fid: float
    kid: float
    precision: float
    recall: float
    agreement: float | None = None


class Judge:
    """Scores samples against `real`, whose features are computed once."""

    def __init__(
        self, net: FeatureNet, real: Samples, config: EvaluationConfig, features: Features | None = None
    ) -> None:
        """features: those of `real` [N, d], where they are known already."""
        self.config = config
        self._net, self._real = net, real
        self._features = self._features_of(real.x) if features is None else features

    @property
    def features(self) -> Features:
        """Of the real samples, [N, d]."""
        return self._features

    def score(self, x: Tensor, condition: Tensor) -> Scores:
        """Scores of x [N, ...], asked for as the classes `condition` [N]."""
        c, fake, real = self.config, self._features_of(x), self._features
        if not self._comparable(fake, c.neighbours + 1):
            return Scores(len(x), math.nan, math.nan, math.nan, math.nan, self._agreement(x, condition))
        precision, recall = precision_recall(real, fake, c.neighbours)
        return Scores(
            n=len(x),
            fid=frechet(Moments.of(fake), Moments.of(real)),
            kid=kernel(fake, real, c.kid_subsets, KID_SUBSET_SIZE),
            precision=precision,
            recall=recall,
            agreement=self._agreement(x, condition),
        )

    def fid(self, x: Tensor) -> float:
        """FID of x [N, ...]; nan where it is undefined."""
        fake = self._features_of(x)
        return frechet(Moments.of(fake), Moments.of(self._features)) if self._comparable(fake, 2) else math.nan

    def only(self, conditions: Tensor | list[int]) -> "Judge":
        """A judge whose real samples are those of the classes `conditions`."""
        keep = torch.isin(self._real.condition, torch.as_tensor(conditions))
        return Judge(self._net, self._real.only(conditions), self.config, self._features[keep.numpy()])

    def class_means(self, classes: int) -> Features:
        """The mean feature of each class, [classes, d]. Raises ValueError where a class has no real sample."""
        y = self._real.condition.numpy()
        empty = sorted(set(range(classes)) - set(y.tolist()))
        if empty:
            raise ValueError(f"class {empty[0]} has no real sample")
        return np.stack([self._features[y == c].mean(0) for c in range(classes)])

    def _comparable(self, fake: Features, at_least: int) -> bool:
        return min(len(fake), len(self._features)) >= at_least and bool(np.isfinite(fake).all())

    def _agreement(self, x: Tensor, condition: Tensor) -> float | None:
        guesses = [self._net.classify(part) for part in torch.split(x, self.config.batch)]
        known = [guess.cpu() for guess in guesses if guess is not None]
        return float((torch.cat(known) == condition.cpu()).double().mean()) if known else None

    def _features_of(self, x: Tensor) -> Features:
        return np.concatenate([self._net.features(part) for part in torch.split(x, self.config.batch)])
