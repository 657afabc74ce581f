"""What an ensemble can be asked for, and which student owns which conditions and noise levels.

Multi-Student Distillation (MSD, arXiv 2410.23274) gives each student a part of the conditions; the paper tries
consecutive classes, k-means clusters and random parts. O2MKD (arXiv 2410.04191) gives each a part of the timesteps.
"""

from msd_ray.conditions.conditions import (
    Classes,
    Condition,
    Conditions,
    Embedded,
    Owned,
    conditioned,
    in_turn,
    named,
    short,
    spread,
)
from msd_ray.conditions.fit import fit
from msd_ray.conditions.kinds import ConditionsConfig, ConditionsSpec, identity, make_conditions
from msd_ray.conditions.partition import Partition, Place, Router, Table
from msd_ray.conditions.partition_config import PartitionConfig

__all__ = [
    "Classes",
    "Condition",
    "Conditions",
    "ConditionsConfig",
    "ConditionsSpec",
    "Embedded",
    "Owned",
    "Partition",
    "PartitionConfig",
    "Place",
    "Router",
    "Table",
    "conditioned",
    "fit",
    "identity",
    "in_turn",
    "make_conditions",
    "named",
    "short",
    "spread",
]
