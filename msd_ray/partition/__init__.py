"""Which student owns which condition.

Multi-Student Distillation (MSD, arXiv 2410.23274) gives each student a part of the conditions; the paper tries
consecutive classes, k-means clusters and random parts.
"""

from msd_ray.partition.fit import PartitionConfig, fit
from msd_ray.partition.partition import Partition

__all__ = ["Partition", "PartitionConfig", "fit"]
