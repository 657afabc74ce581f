"""The loss that diffusion teachers are trained with."""

import torch
from torch import Tensor

from msd_ray.diffusion.denoiser import Denoiser
from msd_ray.diffusion.noise import add_noise, per_sample


def edm_loss(
    denoiser: Denoiser,
    x: Tensor,
    condition: Tensor,
    rng: torch.Generator,
    *,
    sigma_data: float = 0.5,
    p_mean: float = -1.2,
    p_std: float = 1.2,
) -> Tensor:
    """EDM's weighted denoising error, the mean over [B, ...] as a scalar (arXiv 2206.00364, equation 8 and table 1).

    ln sigma ~ N(p_mean, p_std^2); weight (sigma^2 + sigma_data^2) / (sigma sigma_data)^2.
    """
    sigma = lognormal_sigma(x, rng, p_mean, p_std)
    error = denoiser(add_noise(x, sigma, rng), sigma, condition) - x
    return (per_sample(edm_weight(sigma, sigma_data), x) * error**2).mean()


def lognormal_sigma(like: Tensor, rng: torch.Generator, p_mean: float, p_std: float) -> Tensor:
    """Noise levels [B] for samples `like` [B, ...], with ln sigma ~ N(p_mean, p_std^2)."""
    return (p_mean + p_std * torch.randn(len(like), generator=rng, device=rng.device, dtype=like.dtype)).exp()


def edm_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """The weight [B] under which EDM's loss starts equally large at all noise levels [B]."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
