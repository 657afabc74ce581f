"""Judging ensembles: FID@n, KID, precision and recall, and the table of scores and costs.

The report is in `msd_ray.evaluation.run_page`, so that a process that only judges need not load matplotlib.
"""

from msd_ray.evaluation.config import EvaluationConfig
from msd_ray.evaluation.feature_nets import FeatureFiles, features_name, load_features
from msd_ray.evaluation.features import FeatureNet
from msd_ray.evaluation.sample_statistics import SampleStatistics, gathered, statistics_of
from msd_ray.evaluation.scores import Judge, Scores, scored, with_ratio
from msd_ray.evaluation.table import (
    Costs,
    Row,
    Sampler,
    cells,
    from_records,
    headers,
    remarks,
    sampler_row,
    tables,
    to_records,
)

__all__ = [
    "Costs",
    "EvaluationConfig",
    "FeatureFiles",
    "FeatureNet",
    "Judge",
    "Row",
    "SampleStatistics",
    "Sampler",
    "Scores",
    "cells",
    "features_name",
    "from_records",
    "gathered",
    "headers",
    "load_features",
    "remarks",
    "sampler_row",
    "scored",
    "statistics_of",
    "tables",
    "to_records",
    "with_ratio",
]
