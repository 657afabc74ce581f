"""The only file that decides in which numbers, and how, networks compute while students train. Compiling, the layout of
memory and recomputation belong here as well."""

from typing import Any

import torch

from msd_ray.diffusion import EDMDenoiser
from msd_ray.diffusion.denoiser import as_it_is
from msd_ray.training.config import TrainingConfig


def apply(denoiser: EDMDenoiser, training: TrainingConfig) -> EDMDenoiser:
    """The denoiser itself. It and its copies then compute as the recipe's `training` says: "fp32" in the type of their
    input, "bf16" under autocast. The weights keep their type."""
    denoiser.around = _bf16 if training.precision == "bf16" else as_it_is
    return denoiser


def _bf16(device_type: str) -> Any:
    return torch.autocast(device_type, dtype=torch.bfloat16)
