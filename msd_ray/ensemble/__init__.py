"""The artifact of a run: K students, their partition, and how they make samples."""

from msd_ray.ensemble.artifact import FORMAT_VERSION, Description, Member, read_description, read_member, save_ensemble
from msd_ray.ensemble.ensemble import Ensemble
from msd_ray.ensemble.part import Part, SampleId
from msd_ray.ensemble.positions import Mode
from msd_ray.ensemble.requests import seeded_noise, seeded_noises
from msd_ray.ensemble.sampling import ONE_STEP, Sampling
from msd_ray.ensemble.shared_base import SharedBase

__all__ = [
    "FORMAT_VERSION",
    "ONE_STEP",
    "Description",
    "Ensemble",
    "Member",
    "Mode",
    "Part",
    "SampleId",
    "Sampling",
    "SharedBase",
    "read_description",
    "read_member",
    "save_ensemble",
    "seeded_noise",
    "seeded_noises",
]
