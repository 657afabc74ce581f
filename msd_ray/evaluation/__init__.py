"""Judging ensembles: FID@n, KID, precision and recall, and the table of scores and costs.

The report is in `msd_ray.evaluation.report`, so that a process that only judges need not load matplotlib.
"""

from msd_ray.evaluation.config import EvaluationConfig
from msd_ray.evaluation.features import FeatureNet, load_features
from msd_ray.evaluation.measure import Sampler, held_out_row, sampler_row, student_rows
from msd_ray.evaluation.scores import Judge, Scores
from msd_ray.evaluation.table import Costs, Row, cells, from_records, headers, to_records

__all__ = [
    "Costs",
    "EvaluationConfig",
    "FeatureNet",
    "Judge",
    "Row",
    "Sampler",
    "Scores",
    "cells",
    "from_records",
    "headers",
    "held_out_row",
    "load_features",
    "sampler_row",
    "student_rows",
    "to_records",
]
