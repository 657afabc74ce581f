"""What an evaluation measures and how much of it."""

import os
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from msd_ray.evaluation import clip
from msd_ray.evaluation.feature_nets import FeatureFiles, check_name
from msd_ray.ranges import Amount, Count, Images

SampleCount = Annotated[int, Field(ge=2, le=10**8)]


@dataclass(frozen=True)
class EvaluationConfig:
    """How the ensemble is judged.

    samples: generated per row of the table; the n of FID@n. features: what distances are measured in; auto picks by the
    shape of the data. also: further features, in which the table has the scores as well. inception: the file of
    Inception's weights; by default the cache has it. clip: the directory of a CLIPModel of transformers, for the
    features clip, in which scores have the CLIP score too. reference: an npz file of mean and covariance that FIDs in
    the first features are measured against, instead of the training data. baselines: also judge the one-student ones.
    curve_samples: generated per point of a FID curve, which is in the first features. preview_every: images between
    pictures of what student, teacher and fake score make of the same samples. neighbours: k of precision and recall.
    kid_subsets: subsets that KID averages over. retrieval: also the share of samples whose nearest real one is of the
    condition asked for: of use where conditions have few images each. batch: samples per call of a network. cpus, gpus:
    Ray resources of each process that measures; None for a student's GPUs.
    """

    samples: SampleCount = 1797
    features: str = "auto"
    also: tuple[str, ...] = ()
    inception: str = ""
    clip: str = ""
    reference: str = ""
    baselines: bool = False
    curve_samples: SampleCount = 500
    preview_every: Images = 100_000
    neighbours: Count = 3
    kid_subsets: Count = 50
    retrieval: bool = False
    batch: Count = 256
    cpus: Amount = 1.0
    gpus: Amount | None = None

    @property
    def files(self) -> FeatureFiles:
        return FeatureFiles(self.inception, self.clip)

    @property
    def spaces(self) -> tuple[str, ...]:
        """All features that scores are measured in, the main ones first."""
        return (self.features, *self.also)

    def __post_init__(self) -> None:
        """Raises UserError where there are no such features."""
        for name in self.spaces:
            check_name(name)
        if (clip.NAME in self.spaces) != bool(self.clip):
            raise ValueError("clip: the directory of a CLIPModel of transformers belongs to the features clip")
        if self.clip:
            object.__setattr__(self, "clip", os.path.abspath(os.path.expanduser(self.clip)))
        if len(set(self.spaces)) <= len(self.also):
            raise ValueError(f"also: {', '.join(self.also)}: features stand once, features ({self.features}) included")
        if self.samples <= self.neighbours:
            raise ValueError(f"samples ({self.samples}) must be above neighbours ({self.neighbours})")
