"""Published experiments, run again: our figures beside the papers' claims."""

from msd_ray.reproduce.experiments import EXPERIMENTS
from msd_ray.reproduce.run import Finding, reproduce

__all__ = ["EXPERIMENTS", "Finding", "reproduce"]
