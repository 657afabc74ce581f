"""SiD: score identity distillation (arXiv 2404.04057, algorithm 1). The gradient passes through both networks.

The generator's noise levels come from a grid, of 1,000 unless the recipe says otherwise, where the paper draws from
between them. The official code replaces elements of a gradient that are not finite; our trainer leaves the update out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from msd_ray.diffusion import Noise, add_noise, edm_weight, lognormal_sigma, per_sample
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets, Optimization, generated
from msd_ray.ranges import LogSigma, Share, Spread, Weight

OPTIMIZATION = Optimization("adam", betas=(0.0, 0.999), weight_decay=0.0, clip=0.0, fake_steps=1)


@dataclass(frozen=True)
class SiD:
    """alpha: weight of the term that would be unbiased with a perfect fake score (1.2 for ImageNet-64).

    last: highest noise of the generator's loss, as a share of the grid (0.8: sigma <= 24.4). p_mean, p_std: of ln sigma
    where the fake score trains. The recipe's noise.sigma_init is 2.5 in the paper.
    """

    noise: Noise = Noise()
    alpha: Weight = 1.2
    last: Share = 0.8
    p_mean: LogSigma = -1.2
    p_std: Spread = 1.2

    @property
    def needs(self) -> Needs:
        return Needs(teacher="gradient", optimization=OPTIMIZATION, few_steps=True)

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        n = self.noise
        x = generated(nets.generator, batch, n)
        sigma = n.draw(len(x), 0, int(self.last * (n.levels - 1)), rng).to(x.dtype)
        return Draft(x, add_noise(x, sigma, rng), sigma, batch.condition)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        assert teacher_x0 is not None
        fake_x0 = nets.fake(draft.x_t, draft.sigma, draft.condition)
        loss = identity_loss(draft.x, teacher_x0, fake_x0, self.alpha).mean()
        return Loss(loss, {"sid": loss.detach()})

    def fake_loss(self, nets: Nets, x: Tensor, batch: Batch, rng: torch.Generator) -> Loss:
        sigma = lognormal_sigma(x, rng, self.p_mean, self.p_std)
        answer = nets.fake(add_noise(x, sigma, rng), sigma, batch.condition)
        loss = denoising_loss(answer, x, edm_weight(sigma, self.noise.sigma_data))
        return Loss(loss, {"fake_score": loss.detach()})


def identity_loss(x: Tensor, teacher_x0: Tensor, fake_x0: Tensor, alpha: float | Tensor) -> Tensor:
    """Each sample's loss [B], a sum over its elements over the teacher's error, for x, teacher_x0 and fake_x0 [B, ...]
    with their graphs. alpha: a number, or each sample's as [B, 1, ...]."""
    difference = teacher_x0 - fake_x0
    product = difference * ((teacher_x0 - x) - alpha * difference) / per_sample(teachers_error(x, teacher_x0), x)
    return product.flatten(1).sum(dim=1)


def teachers_error(x: Tensor, teacher_x0: Tensor) -> Tensor:
    """mean|x - teacher_x0| of each sample [B] as a constant, at least 1e-5 (as in the official code)."""
    return (x - teacher_x0).detach().abs().flatten(1).mean(dim=1).clamp_min(1e-5)


def denoising_loss(x0: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The squared error of x0 [B, ...] under weights [B]: a sum over elements, as in the official code, and the mean
    over samples. EDM's own is a mean over both."""
    return (weight * (x0 - x).square().flatten(1).sum(dim=1)).mean()
