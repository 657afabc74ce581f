"""How good samples are, measured against real ones."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from msd_ray.data import Samples, Split
from msd_ray.evaluation.config import EvaluationConfig
from msd_ray.evaluation.feature_distances import Features, Moments, frechet, kernel, precision_recall, retrieved
from msd_ray.evaluation.features import FeatureNet
from msd_ray.evaluation.sample_statistics import SampleStatistics, gathered, interleaved, statistics_of

KID_SUBSET_SIZE = 1000
RATIO_SUBSETS = 4
"""The FID of few samples is taken of so many disjoint subsets at most, and averaged."""


@dataclass(frozen=True)
class Scores:
    """n: samples scored. fid, kid: lower is better. precision, recall: in 0..1, higher is better.

    agreement: the share of samples that look like the class they were asked for; None where features know no classes.
    retrieval: the share whose nearest real sample is of the condition asked for; None where nobody asks for it.
    clip_score: of prompts, in the features clip; None elsewhere.
    fid_ratio: the FID over that of real held-out samples, both of fid_ratio_n samples; nan where nobody asked for it.
    A score is nan where it is undefined; `missing` then says why. features: the name of those that all is measured in.
    """

    n: int
    fid: float
    kid: float
    precision: float
    recall: float
    agreement: float | None = None
    fid_ratio: float = math.nan
    fid_ratio_n: int = 0
    missing: str = ""
    features: str = ""
    retrieval: float | None = None
    clip_score: float | None = None


def scored(fake: SampleStatistics, real: SampleStatistics, config: EvaluationConfig) -> Scores:
    """Scores of a set of samples against real ones."""
    k, fid, kid, shares, missing = config.neighbours, math.nan, math.nan, (math.nan, math.nan), list[str]()
    found: float | None = None
    if not _finite(fake):
        missing.append("samples that are not finite")
    else:
        if (fewest := min(fake.n, real.n)) < 2:
            missing.append(f"FID and KID need 2 samples on each side, here {fewest}")
        else:
            fid = frechet(fake.moments, real.moments)
            kid = kernel(fake.features, real.features, config.kid_subsets, KID_SUBSET_SIZE)
        if (fewest := min(len(fake.features), len(real.features))) <= k:
            missing.append(f"precision and recall with {k} neighbours need {k + 1} samples on each side, here {fewest}")
        else:
            shares = precision_recall(real.features, fake.features, k, real.radii)
        if config.retrieval:
            found = retrieved(real.features, real.condition, fake.features, fake.condition)
    agreement = None if fake.right is None else fake.right / fake.n
    return Scores(fake.n, fid, kid, *shares, agreement, missing="; ".join(missing), retrieval=found)


def with_ratio(
    scores: Scores, fake: SampleStatistics, held_out: SampleStatistics | None, real: SampleStatistics
) -> Scores:
    """With the FID over that of the real samples `held_out`, both of as many samples as the smaller set keeps: an FID
    grows as samples become fewer, for real ones as well."""
    if math.isnan(scores.fid):
        return scores
    n = min(len(fake.features), len(held_out.features)) if held_out else 0
    theirs = fid_of_few(held_out, real, n) if held_out and n > 1 else 0.0
    if not theirs > 0:
        why = f"no ratio to real held-out samples: there are {n}" if n < 2 else "the FID of held-out samples is 0"
        return replace(scores, missing="; ".join(filter(None, [scores.missing, why])))
    return replace(scores, fid_ratio=fid_of_few(fake, real, n) / theirs, fid_ratio_n=n)


def fid_of_few(fake: SampleStatistics, real: SampleStatistics, n: int) -> float:
    """The FID of n of the samples: the mean over disjoint subsets. Each has its share of every class, as a sampler
    that takes the classes in turn makes them: chance would move the mean by more than samplers differ."""
    order = interleaved(fake.condition)
    subsets = [order[i * n : (i + 1) * n] for i in range(min(RATIO_SUBSETS, len(order) // n))]
    return float(np.mean([frechet(Moments.of(fake.features[rows]), real.moments) for rows in subsets]))


def _finite(fake: SampleStatistics) -> bool:
    return bool(np.isfinite(fake.moments.mean).all() and np.isfinite(fake.features).all())


class Judge:
    """Scores samples in this process against `real`, whose features are computed once."""

    def __init__(
        self, net: FeatureNet, real: Split, config: EvaluationConfig, features: Features | None = None
    ) -> None:
        """features: those of `real` [N, d], where they are known already."""
        self.config = config
        self._net, self._real = net, real
        self._features = self._features_of_real() if features is None else features
        rows, condition = np.arange(len(self._features)), real.classes.numpy()
        self._reference = SampleStatistics(Moments.of(self._features), rows, condition, self._features)

    @property
    def features(self) -> Features:
        """Of the real samples, [N, d]."""
        return self._features

    def score(self, x: Tensor, condition: Tensor) -> Scores:
        """Scores of x [N, ...], asked for as the classes `condition` [N]."""
        n, batch = len(x), self.config.batch
        pieces = [
            statistics_of(
                self._net, Samples(x[i : i + batch], condition[i : i + batch]), np.arange(i, min(i + batch, n))
            )
            for i in range(0, n, batch)
        ]
        return replace(scored(gathered(pieces), self._reference, self.config), features=self._net.name)

    def fid(self, x: Tensor) -> float:
        """FID of x [N, ...]; nan where it is undefined."""
        fake = Moments.of(self._features_of(x))
        comparable = min(fake.n, self._reference.n) >= 2 and np.isfinite(fake.mean).all()
        return frechet(fake, self._reference.moments) if comparable else math.nan

    def class_means(self, classes: int) -> Features:
        """The mean feature of each class, [classes, d]. Raises ValueError where a class has no real sample."""
        y = self._real.classes.numpy()
        empty = sorted(set(range(classes)) - set(y.tolist()))
        if empty:
            raise ValueError(f"class {empty[0]} has no real sample")
        return np.stack([self._features[y == c].mean(0) for c in range(classes)])

    def _features_of_real(self) -> Features:
        batches = torch.split(torch.arange(len(self._real)), self.config.batch)
        return np.concatenate([self._net.features(self._real.take(numbers).x) for numbers in batches])

    def _features_of(self, x: Tensor) -> Features:
        return np.concatenate([self._net.features(part) for part in torch.split(x, self.config.batch)])
