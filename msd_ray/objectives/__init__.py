"""Distillation objectives: one file per method. Pure functions of networks and a batch; no optimizer, no Ray.

To add a method: write its file, then name its class in `methods.py`; or leave this package alone and name the class in
the recipe as `module:Class`.
"""

from dataclasses import is_dataclass
from typing import Any

from msd_ray.errors import UserError
from msd_ray.objectives.adm import ADM
from msd_ray.objectives.base import (
    Batch,
    Draft,
    Loss,
    Needs,
    Nets,
    Objective,
    Optimization,
    Pairs,
    TrainsFake,
    generated,
    joined,
)
from msd_ray.objectives.boot import BOOT
from msd_ray.objectives.consistency import Consistency
from msd_ray.objectives.dfosd import DFOSD
from msd_ray.objectives.dimo import DiMO
from msd_ray.objectives.dm import DM
from msd_ray.objectives.dmd import DMD
from msd_ray.objectives.fd import FD
from msd_ray.objectives.fdistill import FDistill
from msd_ray.objectives.flow_trajectory import FlowTrajectory
from msd_ray.objectives.gdd import GDD
from msd_ray.objectives.methods import OBJECTIVES
from msd_ray.objectives.moment_matching import MomentMatching
from msd_ray.objectives.multi_guidance import MultiGuidance
from msd_ray.objectives.o2mkd import O2MKD
from msd_ray.objectives.pd import PD
from msd_ray.objectives.pid import PID
from msd_ray.objectives.rdd import RDD
from msd_ray.objectives.sfddm import SFDDM
from msd_ray.objectives.sid import SiD
from msd_ray.objectives.sida import SiDA
from msd_ray.objectives.sum import Sum
from msd_ray.objectives.tsm import TSM
from msd_ray.objectives.uni_instruct import UniInstruct
from msd_ray.objectives.vdd import VDD
from msd_ray.own_code import imported, is_own

SUM = "sum"
OTHERS: dict[str, type[Any]] = {SUM: Sum, "vdd": VDD, "dimo": DiMO}
"""Objectives that are made of others, or train networks of another kind than their teacher's, or have one of tokens."""


def objective_class(name: str) -> type[Any]:
    """The class of a method: one of `OBJECTIVES` or `OTHERS`, or `module:Class` for one of the user's own.

    Raises UserError where there is none.
    """
    known = OBJECTIVES | OTHERS
    if name in known:
        return known[name]
    if not is_own(name):
        raise UserError(f"there is no objective {name!r}, only {', '.join(known)}, or module:Class for your own")
    found = imported(name, "objective")
    if not (isinstance(found, type) and is_dataclass(found)):
        raise UserError(f"there is no objective {name!r}: what it names is not a dataclass")
    return found


__all__ = [
    "ADM",
    "BOOT",
    "DFOSD",
    "DM",
    "DMD",
    "FD",
    "GDD",
    "O2MKD",
    "OBJECTIVES",
    "PD",
    "PID",
    "RDD",
    "SFDDM",
    "SUM",
    "TSM",
    "VDD",
    "Batch",
    "Consistency",
    "DiMO",
    "Draft",
    "FDistill",
    "FlowTrajectory",
    "Loss",
    "MomentMatching",
    "MultiGuidance",
    "Needs",
    "Nets",
    "Objective",
    "Optimization",
    "Pairs",
    "SiD",
    "SiDA",
    "Sum",
    "TrainsFake",
    "UniInstruct",
    "generated",
    "joined",
    "objective_class",
]
