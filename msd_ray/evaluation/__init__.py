"""Judging ensembles: FID@n, KID, precision and recall, and the table of scores and costs.

The report is in `msd_ray.evaluation.report`, so that a process that only judges need not load matplotlib.
"""

from msd_ray.evaluation.config import EvaluationConfig
from msd_ray.evaluation.features import FeatureNet, features_name, load_features
from msd_ray.evaluation.measure import Sampler, sampler_row, student_name
from msd_ray.evaluation.scores import Judge, Scores, scored, with_ratio
from msd_ray.evaluation.table import Costs, Row, cells, from_records, headers, remarks, to_records
from msd_ray.evaluation.tally import Measured, gathered, measured

__all__ = [
    "Costs",
    "EvaluationConfig",
    "FeatureNet",
    "Judge",
    "Measured",
    "Row",
    "Sampler",
    "Scores",
    "cells",
    "features_name",
    "from_records",
    "gathered",
    "headers",
    "load_features",
    "measured",
    "remarks",
    "sampler_row",
    "scored",
    "student_name",
    "to_records",
    "with_ratio",
]
