"""Distillation objectives: one file per method. Pure functions of networks and a batch; no optimizer, no Ray.

To add a method: write its file, then name its class in `OBJECTIVES`.
"""

from typing import Any

from msd_ray.objectives.adm import ADM
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets, Objective
from msd_ray.objectives.dm import DM

OBJECTIVES: dict[str, type[Any]] = {"dm": DM, "adm": ADM}

__all__ = ["ADM", "DM", "OBJECTIVES", "Batch", "Draft", "Loss", "Needs", "Nets", "Objective"]
