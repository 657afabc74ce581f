"""What an ensemble can be asked for, and which student owns which conditions and noise levels.

Multi-Student Distillation (MSD, arXiv 2410.23274) gives each student a part of the conditions; the paper tries
consecutive classes, k-means clusters and random parts. O2MKD (arXiv 2410.04191) gives each a part of the timesteps.
"""

from msd_ray.conditions.conditions import (
    Classes,
    Conditions,
    ConditionsConfig,
    ConditionsSpec,
    Owned,
    conditioned,
    in_turn,
    make_conditions,
    named,
    spread,
)
from msd_ray.conditions.fit import PartitionConfig, fit
from msd_ray.conditions.partition import Partition, Router, Table

__all__ = [
    "Classes",
    "Conditions",
    "ConditionsConfig",
    "ConditionsSpec",
    "Owned",
    "Partition",
    "PartitionConfig",
    "Router",
    "Table",
    "conditioned",
    "fit",
    "in_turn",
    "make_conditions",
    "named",
    "spread",
]
