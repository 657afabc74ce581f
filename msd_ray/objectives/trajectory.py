"""Students of a whole trajectory: from the same noise they make any point of the teacher's ODE.

With the noise z at all levels the same, x_t = y_t + t z, and dy/dt = (y - D(x_t; t)) / t, the signal ODE (BOOT, arXiv
2306.05544, equation 6, here with alpha = 1). A student gives y_t for z and t. Its samples are y at the lowest level.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from msd_ray.diffusion import Denoiser, Noise, from_origin, per_sample

SPAN = 16.0
"""How much lower than sigma_init the level is that stands for t = sigma_init."""


def check_karras(noise: Noise) -> None:
    """Raises ValueError where the network knows no other levels than those of a table."""
    if noise.table:
        raise ValueError("students of a trajectory need a teacher with any noise level, not one of a table of steps")


def times(noise: Noise, levels: int, like: Tensor) -> Tensor:
    """The points of the trajectory, [levels], rising from sigma_min to sigma_init, evenly spaced in t^(1/rho)."""
    return replace(noise, sigma_max=noise.sigma_init, steps=1).grid(levels, device=like.device).to(like.dtype)


def signal(generator: Denoiser, noise: Noise, z: Tensor, t: Tensor, condition: Tensor) -> Tensor:
    """y [B, ...] of the noise z [B, ...] at t [B].

    A one-step generator is asked at sigma_init, which thus stands for the lowest t; the others take the levels below,
    down to sigma_init / SPAN, where all that the network sees is noise as well.
    """
    share = torch.log(t / noise.sigma_min) / math.log(noise.sigma_init / noise.sigma_min)
    level = noise.sigma_init * SPAN ** -share.clamp(0, 1)
    return generator(from_origin(generator, per_sample(level, z) * z, condition), level, condition)
