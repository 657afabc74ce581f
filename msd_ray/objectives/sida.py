"""SiDA: SiD with a GAN whose discriminator is the fake score's own encoder (arXiv 2410.14919 and its official code)."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from msd_ray.diffusion import Noise, add_noise, edm_weight, lognormal_sigma
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets
from msd_ray.objectives.discriminators import discriminator_gan, generator_gan
from msd_ray.objectives.fdistill import Divergence, density_weight
from msd_ray.objectives.sid import OPTIMIZATION, SiD, denoising_loss, identity_loss, teachers_error
from msd_ray.ranges import ImagesOrNone, LogSigma, Share, Spread, Weight


@dataclass(frozen=True)
class SiDA:
    """The generator minimises sid_weight times SiD's loss alone, then half of that and half of gan_weight times the
    GAN's: SiD's is a sum over a sample's elements over the teacher's error there, and so weighted is the GAN's, one
    number for the batch. gan_from: images of the stage after which the GAN joins. head_weight: of the discriminator's
    loss beside the fake score's, which is such a sum too, under EDM's weight. In the first 100,000 images
    (`fake_first`) the generator rests.

    divergence: other than reverse-kl, each sample's SiD loss is weighted by f-distill's function of the density ratio.
    That is not the gradient of this divergence; `uni-instruct` has it.
    """

    noise: Noise = Noise()
    alpha: Weight = 1.0
    last: Share = 0.8
    p_mean: LogSigma = -1.2
    p_std: Spread = 1.2
    sid_weight: Weight = 100.0
    gan_weight: Weight = 0.01
    head_weight: Weight = 1.0
    gan_from: ImagesOrNone = 200_000
    divergence: Divergence = "reverse-kl"

    @property
    def needs(self) -> Needs:
        optimization = replace(OPTIMIZATION, fake_clip_value=1.0, fake_first=100_000)
        return Needs(
            teacher="gradient",
            real_data=True,
            optimization=optimization,
            complete_from=self.gan_from,
            few_steps=True,
        )

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        return SiD(self.noise, self.alpha, self.last).draft(nets, batch, rng)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        assert teacher_x0 is not None
        x, asked = draft.x, (draft.x_t, draft.sigma, draft.condition)
        logits = encoder_logits(nets, *asked)
        losses = identity_loss(x, teacher_x0, nets.fake(*asked), self.alpha)
        sid = (density_weight(logits.mean(dim=1), self.divergence) * losses).mean()
        total, gan = self.with_gan(sid, x, teacher_x0, logits, batch.seen)
        return Loss(total, {"sid": sid.detach(), "gan": gan.detach()})

    def with_gan(self, sid: Tensor, x: Tensor, teacher_x0: Tensor, logits: Tensor, seen: int) -> tuple[Tensor, Tensor]:
        """The whole loss after so many images, and the GAN's; scalars."""
        gan = generator_gan(logits.clamp(-10, 10))
        total = self.sid_weight * sid
        if seen >= self.gan_from:
            share = x[0].numel() * (1 / teachers_error(x, teacher_x0)).mean()
            total = (total + self.gan_weight * share * gan) / 2
        return total, gan

    def fake_loss(self, nets: Nets, x: Tensor, batch: Batch, rng: torch.Generator) -> Loss:
        """Generated and real samples are noised alike: at the same levels, with the same noise."""
        assert batch.real is not None and batch.real_condition is not None
        sigma = lognormal_sigma(x, rng, self.p_mean, self.p_std)
        noise = add_noise(torch.zeros_like(x), sigma, rng)
        weight = edm_weight(sigma, self.noise.sigma_data)
        score = denoising_loss(nets.fake(x + noise, sigma, batch.condition), x, weight)
        on_fake = encoder_logits(nets, x + noise, sigma, batch.condition)
        on_real = encoder_logits(nets, batch.real + noise, sigma, batch.real_condition)
        head = discriminator_gan(on_fake, on_real)
        total = score + self.head_weight * weight.mean() / 2 * head
        return Loss(total, {"fake_score": score.detach(), "head": head.detach()})


def encoder_logits(nets: Nets, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
    """The fake score's bottleneck averaged over its channels: one logit per place, [B, places]."""
    return nets.fake.bottleneck(x_t, sigma, condition).mean(dim=1).reshape(len(x_t), -1)
