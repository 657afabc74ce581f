"""Masked diffusion of tokens (MaskGIT, arXiv 2202.04200; MDLM, arXiv 2406.07524): the noise level is the share of
masks, and a denoiser gives the logits of what they hide."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from msd_ray.diffusion.denoiser import Denoiser
from msd_ray.diffusion.tokens import FOR_MASKS, drawn_tokens, masked, masks_of, uniform


def mask_shares(like: Tensor, rng: torch.Generator) -> Tensor:
    """Shares of masks [B] for samples `like` [B, ...]: 2 / pi arccos(u) with u even from 0 to 1, more often high than
    low (as the authors' code of Di[M]O draws them)."""
    u = torch.rand(len(like), generator=rng, device=rng.device, dtype=like.dtype)
    return u.arccos() * (2 / math.pi)


def over_masks(value: Tensor, x_t: Tensor) -> Tensor:
    """The mean of value [B, 1, ...] where tokens x_t [B, n, ...] are masked; 0 where none is."""
    mask = masks_of(x_t)
    return (value * mask).sum() / mask.sum().clamp(min=1)


def masked_loss(denoiser: Denoiser, x: Tensor, condition: Tensor, rng: torch.Generator) -> Tensor:
    """The cross-entropy of masked tokens, the mean over all masks of the batch as a scalar; x: tokens [B, n, ...]."""
    share = mask_shares(x, rng)
    x_t = masked(x, share, rng)
    said = denoiser(x_t, share, condition).log_softmax(dim=1)
    return over_masks(-(x * said).sum(dim=1, keepdim=True), x_t)


@torch.no_grad()
def unmask(denoiser: Denoiser, z: Tensor, condition: Tensor, steps: int, fresh: Callable[[int], Tensor]) -> Tensor:
    """Tokens [B, n, ...] in `steps` network evaluations, from masks alone. A step draws all masked tokens, of which it
    keeps so many at random that cos(pi/2 i/steps) of all are masked after step i (the schedule is MaskGIT's; which to
    keep is MDLM's).

    z: ~ N(0, I) as the tokens, what the first step draws with. fresh: the same for each of the others by its number.
    """
    x = torch.zeros_like(z)
    for step in range(steps):
        level, below = (math.cos(math.pi / 2 * i / steps) if i < steps else 0.0 for i in (step, step + 1))
        noise = fresh(step) if step else z
        tokens = drawn_tokens(denoiser(x, x.new_full(x.shape[:1], level), condition), noise)
        x = torch.where(masks_of(x) & (uniform(noise, FOR_MASKS) >= below / level), tokens, x)
    return x
