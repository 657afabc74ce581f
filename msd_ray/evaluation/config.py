"""What an evaluation measures and how much of it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class EvaluationConfig:
    """How the ensemble is judged.

    samples: generated per row of the table; the n of FID@n. features: what distances are measured in; auto picks by the
    shape of the data. baselines: also judge the one-student baselines. curve_samples: generated per point of a FID
    curve. preview_every: images between pictures of what student, teacher and fake score make of the same samples.
    neighbours: k of precision and recall. kid_subsets: subsets that KID averages over. batch: samples per call of a
    network.
    """

    samples: int = 1797
    features: Literal["auto", "digits", "identity", "inception"] = "auto"
    baselines: bool = False
    curve_samples: int = 500
    preview_every: int = 100_000
    neighbours: int = 3
    kid_subsets: int = 50
    batch: int = 256

    def __post_init__(self) -> None:
        if min(self.neighbours, self.kid_subsets, self.batch, self.preview_every) < 1:
            raise ValueError("neighbours, kid_subsets, batch and preview_every must be at least 1")
        if self.samples <= self.neighbours:
            raise ValueError("samples must be above neighbours")
        if self.curve_samples < 2:
            raise ValueError("curve_samples must be at least 2")
        if self.features not in ("auto", "digits", "identity", "inception"):
            raise ValueError(f"features must be auto, digits, identity or inception, not {self.features}")
