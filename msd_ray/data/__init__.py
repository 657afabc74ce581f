"""Data sets: what teachers are trained on, and what real images students are shown and judged against."""

from msd_ray.data.registry import DataConfig, fingerprint, identity, load_data
from msd_ray.data.source import DataSet, InMemory, Rows, Samples, Split, in_memory

__all__ = [
    "DataConfig",
    "DataSet",
    "InMemory",
    "Rows",
    "Samples",
    "Split",
    "fingerprint",
    "identity",
    "in_memory",
    "load_data",
]
