"""What tables and reports are made from: a teacher and an ensemble's students, as functions that sample."""

import torch
from torch import Tensor

from msd_ray.ensemble import Ensemble, Part, Sampling, seeded_noise
from msd_ray.evaluation import Sampler
from msd_ray.runs.teacher import load_teacher, spec_of
from msd_ray.storage import Store


def device_here() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def teacher_sampler(teacher: Store, sampling: Sampling, device: torch.device) -> Sampler:
    """The teacher in that folder, asked as `sampling` says. Raises FileNotFoundError or CorruptError where there is
    none."""
    denoiser, shape = load_teacher(teacher).to(device), spec_of(teacher).sample_shape

    def sample(condition: Tensor, seeds: list[int]) -> Tensor:
        z = seeded_noise(seeds, shape).to(device)
        return sampling.integrate(denoiser, z, condition.to(device))

    return sample


def part_sampler(part: Part) -> Sampler:
    """In plain batches as the teacher is sampled, so that their times compare; `generate` pays for exact samples."""
    return lambda condition, seeds: part.generate(list(zip(condition.tolist(), seeds, strict=True)), batch=len(seeds))


def ensemble_sampler(ensemble: Ensemble) -> Sampler:
    """As `part_sampler`, of any condition."""
    return lambda condition, seeds: ensemble.generate(condition, seeds, batch=len(seeds))
