"""The methods by their names in recipes."""

from typing import Any

from msd_ray.objectives.adm import ADM
from msd_ray.objectives.boot import BOOT
from msd_ray.objectives.consistency import Consistency
from msd_ray.objectives.dfosd import DFOSD
from msd_ray.objectives.dm import DM
from msd_ray.objectives.dmd import DMD
from msd_ray.objectives.fd import FD
from msd_ray.objectives.fdistill import FDistill
from msd_ray.objectives.flow_trajectory import FlowTrajectory
from msd_ray.objectives.gdd import GDD
from msd_ray.objectives.moment_matching import MomentMatching
from msd_ray.objectives.multi_guidance import MultiGuidance
from msd_ray.objectives.o2mkd import O2MKD
from msd_ray.objectives.pd import PD
from msd_ray.objectives.pid import PID
from msd_ray.objectives.rdd import RDD
from msd_ray.objectives.sfddm import SFDDM
from msd_ray.objectives.sid import SiD
from msd_ray.objectives.sida import SiDA
from msd_ray.objectives.tsm import TSM
from msd_ray.objectives.uni_instruct import UniInstruct

OBJECTIVES: dict[str, type[Any]] = {
    "dm": DM,
    "adm": ADM,
    "tsm": TSM,
    "dmd": DMD,
    "sid": SiD,
    "sida": SiDA,
    "uni-instruct": UniInstruct,
    "gdd": GDD,
    "consistency": Consistency,
    "f-distill": FDistill,
    "moment-matching": MomentMatching,
    "fd": FD,
    "pd": PD,
    "rdd": RDD,
    "sfddm": SFDDM,
    "multi-guidance": MultiGuidance,
    "boot": BOOT,
    "pid": PID,
    "o2mkd": O2MKD,
    "flow-trajectory": FlowTrajectory,
    "dfosd": DFOSD,
}
