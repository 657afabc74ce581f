"""GDD and GDD-I: a diffusion model's weights turned into a one-step generator by a GAN alone ("innate one-step
generators", arXiv 2405.20750)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from msd_ray.diffusion import Noise, add_noise, one_step
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets, Optimization
from msd_ray.objectives.discriminators import discriminator_gan, generator_gan, projected_head
from msd_ray.ranges import Count, Weight, within

INNATE = (r"\.conv0\.", r"\.conv1\.", r"\.proj\.", r"\.hidden\.", r"\.out\.")
"""Convolutions and projections inside the blocks of a UNet; the hidden layers of an MLP's blocks."""


@dataclass(frozen=True)
class GDD:
    """The discriminator judges features of the frozen teacher's encoder: the paper's ImageNet networks say little about
    small data, and the classifier that FID is measured in must not also be the judge in training. Its heads are plain
    (`ProjectedHead`): the paper's have spectral norm, random mixing of channels and scales, class projection and a map
    of logits each. Its augmentations are left out, and our discriminator steps before the generator, not after it.

    innate: GDD-I, which leaves the layers in `INNATE` as the teacher has them. affine: whether GDD-I trains the weights
    of the blocks' scale and shift, as the paper does; in a narrow network these alone are a sixth of all. sigma: noise
    that the features are taken at. r1: weight gamma of R1 on real samples, applied every r1_every updates, and beside a
    loss that is a sum over heads: ours is their mean, so it has that share of the weight. The official code takes it as
    a step of its own; with Adam, whose denominator hardly sees it, that is nearly the same.
    """

    noise: Noise = Noise()
    innate: bool = False
    affine: bool = True
    sigma: Annotated[float, within(ge=0, le=1e6)] = 0.2
    r1: Weight = 1e-4
    r1_every: Count = 16

    @property
    def needs(self) -> Needs:
        frozen = INNATE if self.affine else (*INNATE, r"\.affine\.weight")
        return Needs(
            teacher="none",
            real_data=True,
            fake=False,
            head=projected_head,
            encoder=True,
            boundary=True,
            frozen=frozen if self.innate else (),
            optimization=Optimization("adam", betas=(0.0, 0.99), weight_decay=0.0, clip=0.0, fake_steps=1),
        )

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        x = one_step(nets.generator, batch.z, batch.condition, self.noise.sigma_init)
        return Draft(x, x.detach(), x.new_zeros(len(x)), batch.condition)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        gan = generator_gan(self._logits(nets, draft.x, draft.condition, rng))
        return Loss(gan, {"gan": gan.detach()})

    def fake_loss(self, nets: Nets, x: Tensor, batch: Batch, rng: torch.Generator) -> Loss:
        assert batch.real is not None and batch.real_condition is not None
        regular = self.r1 > 0 and batch.step > 0 and batch.step % self.r1_every == 0
        real = batch.real.detach().requires_grad_(regular)
        on_fake = self._logits(nets, x, batch.condition, rng)
        on_real = self._logits(nets, real, batch.real_condition, rng)
        head = discriminator_gan(on_fake, on_real)
        if not regular:
            return Loss(head, {"head": head.detach()})
        heads = on_real.shape[1]
        penalty = self.r1_every * self.r1 / 2 / heads * _squared_gradient(on_real, real)
        return Loss(head + penalty, {"head": head.detach(), "r1": penalty.detach()})

    def _logits(self, nets: Nets, x: Tensor, condition: Tensor, rng: torch.Generator) -> Tensor:
        assert nets.encoder is not None and nets.head is not None
        sigma = torch.full((len(x),), self.sigma, dtype=x.dtype, device=x.device)
        logits: Tensor = nets.head(nets.encoder.features(add_noise(x, sigma, rng), sigma, condition))
        return logits


def _squared_gradient(logits: Tensor, x: Tensor) -> Tensor:
    """The mean over samples of |d logits / d x|^2, with its graph (R1, arXiv 1801.04406, equation 9)."""
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1).mean()
