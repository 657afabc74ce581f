"""The artifact of a run: K one-step students and the partition that says which of them makes what."""

from msd_ray.ensemble.artifact import FORMAT_VERSION, Description, read_description, read_member, save_ensemble
from msd_ray.ensemble.ensemble import Ensemble, seeded_noise
from msd_ray.ensemble.member import Member

__all__ = [
    "FORMAT_VERSION",
    "Description",
    "Ensemble",
    "Member",
    "read_description",
    "read_member",
    "save_ensemble",
    "seeded_noise",
]
