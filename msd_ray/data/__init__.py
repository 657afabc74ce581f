"""Data sets: what teachers are trained on, and what real images students are shown and judged against."""

from msd_ray.data.dataset import DataConfig, DataSet, Samples, load_data

__all__ = ["DataConfig", "DataSet", "Samples", "load_data"]
