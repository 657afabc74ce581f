"""Samplers that integrate the probability flow ODE from pure noise to data. All have the same signature."""

from itertools import pairwise

import torch
from torch import Tensor

from msd_ray.diffusion.denoiser import Denoiser
from msd_ray.diffusion.noise import Noise, per_sample


def _descending(noise: Noise, steps: int, z: Tensor) -> list[Tensor]:
    """The steps + 1 noise levels from sigma_max down to 0, each as [B]."""
    grid = noise.grid(max(steps, 2), device=z.device).flip(0)[:steps]  # a single step starts at sigma_max as well
    grid = torch.cat([grid, torch.zeros(1, device=z.device)]).to(z.dtype)
    return [level.expand(len(z)) for level in grid]


@torch.no_grad()
def heun(denoiser: Denoiser, z: Tensor, condition: Tensor, noise: Noise, steps: int = 18) -> Tensor:
    """Heun's method (arXiv 2206.00364, algorithm 1), z ~ N(0, I) [B, ...]; 2 * steps - 1 network evaluations."""
    sigmas = _descending(noise, steps, z)
    x = per_sample(sigmas[0], z) * z
    for i, (sigma, below) in enumerate(pairwise(sigmas)):
        slope = (x - denoiser(x, sigma, condition)) / per_sample(sigma, x)
        euler = x + per_sample(below - sigma, x) * slope
        if i == steps - 1:
            return euler
        corrected = (euler - denoiser(euler, below, condition)) / per_sample(below, x)
        x = x + per_sample(below - sigma, x) * (slope + corrected) / 2
    return x


@torch.no_grad()
def ddim(denoiser: Denoiser, z: Tensor, condition: Tensor, noise: Noise, steps: int = 18) -> Tensor:
    """DDIM (arXiv 2010.02502), which is Euler's method in sigma, z ~ N(0, I) [B, ...]; `steps` network evaluations."""
    sigmas = _descending(noise, steps, z)
    x = per_sample(sigmas[0], z) * z
    for sigma, below in pairwise(sigmas):
        x0 = denoiser(x, sigma, condition)
        x = x0 + per_sample(below / sigma, x) * (x - x0)
    return x


def nfe_of_heun(steps: int) -> int:
    """Network evaluations per sample of `heun` with that many steps."""
    return 2 * steps - 1
