"""DM: distribution matching with two time scales (DMD2, arXiv 2405.14867, equations 1 and 2, section 4.2)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from msd_ray.diffusion import Denoiser, Noise, add_noise, per_sample
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets, generated
from msd_ray.ranges import BelowOne, Share


@dataclass(frozen=True)
class DM:
    """first, last: range of the noise grid on which teacher and fake score are compared, as shares of its length."""

    noise: Noise = Noise()
    first: BelowOne = 0.02
    last: Share = 0.98

    def __post_init__(self) -> None:
        check_span(self.first, self.last)

    @property
    def needs(self) -> Needs:
        return Needs(few_steps=True, phases=True)

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        n = self.noise
        x = generated(nets.generator, batch, n)
        first, last = int(self.first * n.levels), min(int(self.last * n.levels), n.levels - 1)
        sigma = n.draw(len(x), first, last, rng).to(x.dtype)
        return Draft(x, add_noise(x.detach(), sigma, rng), sigma, batch.condition)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        assert teacher_x0 is not None
        with torch.no_grad():
            fake_x0 = nets.fake(draft.x_t, draft.sigma, draft.condition)
        loss = matching_loss(draft.x, teacher_x0, fake_x0)
        return Loss(loss, {"dm": loss.detach()})

    def fake_loss(self, nets: Nets, x: Tensor, batch: Batch, rng: torch.Generator) -> Loss:
        loss = score_loss(nets.fake, x, batch.condition, self.noise, rng)
        return Loss(loss, {"fake_score": loss.detach()})


def check_span(first: float, last: float) -> None:
    """Raises ValueError where no noise level lies between these shares of the grid."""
    if first > last:
        raise ValueError(f"first ({first:g}) must be at most last ({last:g})")


def matching_loss(x: Tensor, teacher_x0: Tensor, fake_x0: Tensor, weight: Tensor | None = None) -> Tensor:
    """Scalar whose gradient in x is (fake_x0 - teacher_x0) / mean|x - teacher_x0| / x.numel(), all [B, ...].

    The difference is sigma^2 times the difference of the scores; the mean is over each sample's own elements. weight:
    factor [B] of each sample's gradient, if any.
    """
    with torch.no_grad():
        p_real, p_fake = x - teacher_x0, x - fake_x0
        size = p_real.abs().flatten(1).mean(dim=1).clamp_min(1e-8)
        gradient = (p_real - p_fake) / per_sample(size, x)
        if weight is not None:
            gradient = per_sample(weight, x) * gradient
        target = x - gradient
    return 0.5 * F.mse_loss(x, target)


def score_loss(fake: Denoiser, x: Tensor, condition: Tensor, noise: Noise, rng: torch.Generator) -> Tensor:
    """Denoising error on generated x [B, ...] over the whole grid, weighted 1/sigma^2 + 1/sigma_data^2."""
    sigma = noise.draw(len(x), 0, noise.levels - 1, rng).to(x.dtype)
    weight = per_sample(sigma**-2 + noise.sigma_data**-2, x)
    return (weight * (fake(add_noise(x, sigma, rng), sigma, condition) - x) ** 2).mean()
