"""Samplers that go from pure noise to data: by the probability flow ODE, or with new noise on the way."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor

from msd_ray.diffusion.denoiser import Denoiser
from msd_ray.diffusion.noise import Noise, per_sample
from msd_ray.ranges import Weight, within


@dataclass(frozen=True)
class Churn:
    """The new noise that each step of `stochastic` begins with, which raises the level (arXiv 2206.00364, algorithm 2).

    amount: S_churn, 0 for none. sigma_min, sigma_max: levels between which there is any. scale: S_noise, the noise's
    standard deviation over what the higher level would have.
    """

    amount: Weight = 0.0
    sigma_min: Weight = 0.0
    sigma_max: Weight = 1e9
    scale: Annotated[float, within(gt=0, le=10)] = 1.0

    def raised(self, sigma: Tensor, steps: int) -> Tensor:
        """The level [B] of a step that would begin at sigma [B]."""
        gamma = min(self.amount / steps, math.sqrt(2) - 1)
        return torch.where((sigma >= self.sigma_min) & (sigma <= self.sigma_max), sigma + gamma * sigma, sigma)


def sampler_levels(noise: Noise, steps: int, like: Tensor) -> Tensor:
    """The noise levels of a sampler's steps, [steps], falling from sigma_max."""
    grid = noise.grid(max(steps, 2), device=like.device)  # a single step starts at sigma_max as well
    return grid.flip(0)[:steps].to(like.dtype)


def _descending(noise: Noise, steps: int, z: Tensor) -> list[Tensor]:
    """The steps + 1 noise levels from sigma_max down to 0, each as [B]."""
    levels = sampler_levels(noise, steps, z)
    return [level.expand(len(z)) for level in torch.cat([levels, levels.new_zeros(1)])]


@torch.no_grad()
def heun(denoiser: Denoiser, z: Tensor, condition: Tensor, noise: Noise, steps: int = 18) -> Tensor:
    """Heun's method (arXiv 2206.00364, algorithm 1), z ~ N(0, I) [B, ...]; 2 * steps - 1 network evaluations."""
    sigmas = _descending(noise, steps, z)
    x = per_sample(sigmas[0], z) * z
    for i, (sigma, below) in enumerate(pairwise(sigmas)):
        x = _heun_step(denoiser, x, sigma, below, condition, last=i == steps - 1)
    return x


@torch.no_grad()
def stochastic(
    denoiser: Denoiser,
    z: Tensor,
    condition: Tensor,
    noise: Noise,
    steps: int,
    churn: Churn,
    fresh: Callable[[int], Tensor],
) -> Tensor:
    """`heun` with new noise (arXiv 2206.00364, algorithm 2). fresh: the noise of each step by its number, ~ N(0, I) as
    z."""
    sigmas = _descending(noise, steps, z)
    x = per_sample(sigmas[0], z) * z
    for i, (sigma, below) in enumerate(pairwise(sigmas)):
        raised = churn.raised(sigma, steps)
        x = x + per_sample((raised**2 - sigma**2).sqrt(), x) * churn.scale * fresh(i)
        x = _heun_step(denoiser, x, raised, below, condition, last=i == steps - 1)
    return x


def _heun_step(denoiser: Denoiser, x: Tensor, sigma: Tensor, below: Tensor, condition: Tensor, last: bool) -> Tensor:
    """From the level sigma to the next; the last step is Euler's."""
    slope = (x - denoiser(x, sigma, condition)) / per_sample(sigma, x)
    euler = x + per_sample(below - sigma, x) * slope
    if last:
        return euler
    corrected = (euler - denoiser(euler, below, condition)) / per_sample(below, x)
    return x + per_sample(below - sigma, x) * (slope + corrected) / 2


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
