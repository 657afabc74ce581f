"""What a run's table and report are made from: its teacher and its ensembles, as functions that sample."""

import torch
from torch import Tensor

from msd_ray.diffusion import EDMDenoiser
from msd_ray.ensemble import Ensemble, Sampling, seeded_noise
from msd_ray.errors import UserError
from msd_ray.evaluation import Sampler
from msd_ray.runs.directory import folder
from msd_ray.runs.plan import Group
from msd_ray.runs.setting import Setting
from msd_ray.runs.teacher import load_teacher


def ensemble_of(setting: Setting, group: Group) -> Ensemble:
    return Ensemble.load(folder(setting.store, group.directory), device_here())


def device_here() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def teacher_sampler(setting: Setting, sampling: Sampling) -> Sampler:
    """The teacher, asked as `sampling` says. Raises UserError where the run has none."""
    denoiser = _teacher(setting).to(device_here())

    def sample(condition: Tensor, seeds: list[int]) -> Tensor:
        z = seeded_noise(seeds, setting.data.shape).to(device_here())
        return sampling.integrate(denoiser, z, condition.to(device_here()))

    return sample


def _teacher(setting: Setting) -> EDMDenoiser:
    try:
        return load_teacher(setting.store.child("teacher"))
    except FileNotFoundError:
        raise UserError(f"{setting.store.uri} holds no teacher: `msd-ray train` it again") from None


def ensemble_sampler(ensemble: Ensemble) -> Sampler:
    """In plain batches as the teacher is sampled, so that their times compare; `generate` pays for exact samples."""
    return lambda condition, seeds: ensemble.generate(condition, seeds, batch=len(seeds))
