"""GDD and GDD-I: a diffusion model's weights turned into a one-step generator by a GAN alone ("innate one-step
generators", arXiv 2405.20750)."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from msd_ray.diffusion import Noise, add_noise, one_step
from msd_ray.networks import efficientnet
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets, Optimization
from msd_ray.objectives.discriminators import discriminator_gan, generator_gan, projected_head
from msd_ray.objectives.random_projections import random_projections_head
from msd_ray.ranges import Count, Weight, within

INNATE = (r"\.conv0\.", r"\.conv1\.", r"\.proj\.", r"\.hidden\.", r"\.out\.")
"""Convolutions and projections inside the blocks of a UNet; the hidden layers of an MLP's blocks."""


@dataclass(frozen=True)
class GDD:
    """features: what the discriminator judges. `teacher`: the features of the frozen teacher's encoder, at noise
    `sigma`, with plain heads (`ProjectedHead`); ImageNet networks say little about data such as digits.
    `efficientnet-lite0`: the maps of that network in pictures scaled to `side` pixels, mixed at random, with the
    paper's heads (`RandomProjectionsHead`). The paper judges a second network's maps as well (VGG16 for CIFAR-10, DeiT
    for 64 pixels), and its vectors of conditions begin as ImageNet's classes, ours at random. As in its training
    scripts nothing is augmented. Our discriminator steps before the generator, not after it.

    innate: GDD-I, which leaves the layers in `INNATE` as the teacher has them. affine: whether GDD-I trains the weights
    of the blocks' scale and shift, as the paper does; in a narrow network these alone are a sixth of all. r1: weight
    gamma of R1 on real samples, applied every r1_every updates, over the number of a sample's logits: our loss is a
    mean over them. The official code takes it as a step of its own; with Adam, whose denominator hardly sees it, that
    is nearly the same.
    """

    noise: Noise = Noise()
    innate: bool = False
    affine: bool = True
    features: Literal["teacher", "efficientnet-lite0"] = "teacher"
    side: Annotated[int, within(ge=64, le=1024, multiple_of=32)] = 224
    sigma: Annotated[float, within(ge=0, le=1e6)] = 0.2
    r1: Weight = 1e-4
    r1_every: Count = 16

    @property
    def needs(self) -> Needs:
        pretrained = "" if self.features == "teacher" else self.features
        frozen = INNATE if self.affine else (*INNATE, r"\.affine\.weight")
        return Needs(
            teacher="none",
            real_data=True,
            fake=False,
            head=partial(random_projections_head, side=self.side) if pretrained else projected_head,
            second_order=self.r1 > 0,
            encoder=not pretrained,
            pretrained=pretrained,
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
        penalty = self.r1_every * self.r1 / 2 / on_real.shape[1] * _squared_gradient(on_real, real)
        return Loss(head + penalty, {"head": head.detach(), "r1": penalty.detach()})

    def _logits(self, nets: Nets, x: Tensor, condition: Tensor, rng: torch.Generator) -> Tensor:
        assert nets.head is not None
        logits: Tensor = nets.head(*self._judged(nets, x, condition, rng))
        return logits

    def _judged(self, nets: Nets, x: Tensor, condition: Tensor, rng: torch.Generator) -> tuple[Any, ...]:
        """What the head takes: features, and the condition where these do not depend on it."""
        if self.features == "teacher":
            assert nets.encoder is not None
            sigma = torch.full((len(x),), self.sigma, dtype=x.dtype, device=x.device)
            return (nets.encoder.features(add_noise(x, sigma, rng), sigma, condition),)
        assert nets.pretrained is not None
        return efficientnet.feature_maps(nets.pretrained, x, self.side), nets.generator.embed(condition)


def _squared_gradient(logits: Tensor, x: Tensor) -> Tensor:
    """The mean over samples of |d logits / d x|^2, with its graph (R1, arXiv 1801.04406, equation 9)."""
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1).mean()
