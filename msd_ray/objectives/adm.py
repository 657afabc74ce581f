"""ADM: adversarial distribution matching, DM plus a GAN on noised samples (MSD, arXiv 2410.23274, section 3.2, in the
form of DMD2, arXiv 2405.14867, section 4.3: the discriminator is a head on the fake score's bottleneck)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from msd_ray.diffusion import Noise, add_noise
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets
from msd_ray.objectives.discriminators import bottleneck_head, discriminator_gan, generator_gan
from msd_ray.objectives.dm import DM, check_span, score_loss
from msd_ray.ranges import BelowOne, Share, Weight


@dataclass(frozen=True)
class ADM:
    """generator_weight, head_weight: of the GAN's losses beside DM's and the fake score's. first, last: as in DM."""

    noise: Noise = Noise()
    first: BelowOne = 0.02
    last: Share = 0.98
    generator_weight: Weight = 3e-3
    head_weight: Weight = 1e-2

    def __post_init__(self) -> None:
        check_span(self.first, self.last)

    @property
    def needs(self) -> Needs:
        return Needs(real_data=True, head=bottleneck_head, few_steps=True, phases=True)

    @property
    def _dm(self) -> DM:
        return DM(self.noise, self.first, self.last)

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        return self._dm.draft(nets, batch, rng)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        dm = self._dm.generator_loss(nets, draft, batch, teacher_x0, rng)
        gan = generator_gan(self.logits(nets, draft.x, draft.condition, rng))
        return Loss(dm.total + self.generator_weight * gan, {**dm.parts, "gan": gan.detach()})

    def fake_loss(self, nets: Nets, x: Tensor, batch: Batch, rng: torch.Generator) -> Loss:
        assert batch.real is not None and batch.real_condition is not None
        score = score_loss(nets.fake, x, batch.condition, self.noise, rng)
        on_fake = self.logits(nets, x, batch.condition, rng)
        head = discriminator_gan(on_fake, self.logits(nets, batch.real, batch.real_condition, rng))
        return Loss(score + self.head_weight * head, {"fake_score": score.detach(), "head": head.detach()})

    def logits(self, nets: Nets, x: Tensor, condition: Tensor, rng: torch.Generator) -> Tensor:
        """The discriminator's [B, 1] on clean samples x [B, ...], noised at any level of the grid."""
        sigma = self.noise.draw(len(x), 0, self.noise.levels - 1, rng).to(x.dtype)
        return nets.logits(add_noise(x, sigma, rng), sigma, condition)
