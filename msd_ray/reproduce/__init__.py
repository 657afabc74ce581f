"""Published experiments, run again: our figures beside the papers' claims."""

from msd_ray.reproduce.experiments import EXPERIMENTS
from msd_ray.reproduce.reproduce import Finding, reproduce

__all__ = ["EXPERIMENTS", "Finding", "reproduce"]
