"""Noise schedules, preconditioning, losses and samplers: tensors in, tensors out.

A `Denoiser` maps a noised sample to an estimate of the clean one. Teacher, fake score and student are all denoisers.
"""

from msd_ray.diffusion.denoiser import Denoiser, EDMDenoiser, Network, from_origin, one_step
from msd_ray.diffusion.few_steps import few_steps, last_steps, levels_of_fewer, random_anchors, rolled_out
from msd_ray.diffusion.guidance import Guided, unguided
from msd_ray.diffusion.loss import edm_loss, edm_weight, lognormal_sigma
from msd_ray.diffusion.masking import mask_shares, masked_loss, over_masks, unmask
from msd_ray.diffusion.noise import Noise, add_noise, per_sample
from msd_ray.diffusion.noise_table import NoiseTable
from msd_ray.diffusion.preconditioning import (
    EDM,
    IDDPM,
    PRECONDITIONINGS,
    VE,
    VP,
    Masked,
    Preconditioning,
    Stepped,
    preconditioning_of,
)
from msd_ray.diffusion.samplers import Churn, ddim, heun, nfe_of_heun, sampler_levels, stochastic
from msd_ray.diffusion.tokens import drawn_tokens, masked

__all__ = [
    "EDM",
    "IDDPM",
    "PRECONDITIONINGS",
    "VE",
    "VP",
    "Churn",
    "Denoiser",
    "EDMDenoiser",
    "Guided",
    "Masked",
    "Network",
    "Noise",
    "NoiseTable",
    "Preconditioning",
    "Stepped",
    "add_noise",
    "ddim",
    "drawn_tokens",
    "edm_loss",
    "edm_weight",
    "few_steps",
    "from_origin",
    "heun",
    "last_steps",
    "levels_of_fewer",
    "lognormal_sigma",
    "mask_shares",
    "masked",
    "masked_loss",
    "nfe_of_heun",
    "one_step",
    "over_masks",
    "per_sample",
    "preconditioning_of",
    "random_anchors",
    "rolled_out",
    "sampler_levels",
    "stochastic",
    "unguided",
    "unmask",
]
