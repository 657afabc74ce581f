"""SiDA: SiD with a GAN whose discriminator is the fake score's own encoder (arXiv 2410.14919)."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from msd_ray.diffusion import Noise, add_noise
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets
from msd_ray.objectives.fdistill import Divergence, density_weight
from msd_ray.objectives.heads import discriminator_gan, generator_gan
from msd_ray.objectives.sid import OPTIMIZATION, SiD, identity_loss


@dataclass(frozen=True)
class SiDA:
    """sid_weight, gan_weight: of the generator's two terms (official code: 0.5 x 100 and 0.5 x 0.01). head_weight: of
    the discriminator's loss beside the fake score's; not published. gan_from: updates of the stage before the GAN
    joins. The stage's fake_first is the time in which only the fake score trains (the paper's first 100 kimg).

    divergence: other than reverse-kl, each sample's SiD loss is weighted by a function of the density ratio, which is
    the idea of Uni-Instruct (arXiv 2505.20755); ours takes the function from f-distill and is not that paper's code.
    """

    noise: Noise = Noise()
    alpha: float = 1.0
    last: float = 0.8
    p_mean: float = -1.2
    p_std: float = 1.2
    sid_weight: float = 50.0
    gan_weight: float = 0.005
    head_weight: float = 0.01
    gan_from: int = 0
    divergence: Divergence = "reverse-kl"

    @property
    def needs(self) -> Needs:
        optimization = replace(OPTIMIZATION, fake_clip_value=1.0)
        return Needs(teacher="gradient", real_data=True, optimization=optimization)

    @property
    def _sid(self) -> SiD:
        return SiD(self.noise, self.alpha, self.last, self.p_mean, self.p_std)

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        return self._sid.draft(nets, batch, rng)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        assert teacher_x0 is not None
        x_t, sigma, condition = draft.x_t, draft.sigma, draft.condition
        logits = _logits(nets, x_t, sigma, condition)
        losses = identity_loss(draft.x, teacher_x0, nets.fake(x_t, sigma, condition), self.alpha)
        sid = (density_weight(logits.mean(dim=1), self.divergence) * losses).mean()
        gan = generator_gan(logits)
        gan_weight = self.gan_weight if batch.step >= self.gan_from else 0.0
        return Loss(self.sid_weight * sid + gan_weight * gan, {"sid": sid.detach(), "gan": gan.detach()})

    def fake_loss(self, nets: Nets, x: Tensor, batch: Batch, rng: torch.Generator) -> Loss:
        assert batch.real is not None and batch.real_condition is not None
        score = self._sid.score_loss(nets, x, batch.condition, rng)
        on_fake = self._noised_logits(nets, x, batch.condition, rng)
        on_real = self._noised_logits(nets, batch.real, batch.real_condition, rng)
        head = discriminator_gan(on_fake, on_real)
        return Loss(score + self.head_weight * head, {"fake_score": score.detach(), "head": head.detach()})

    def _noised_logits(self, nets: Nets, x: Tensor, condition: Tensor, rng: torch.Generator) -> Tensor:
        n = self.noise
        sigma = n.draw(len(x), 0, int(self.last * (n.levels - 1)), rng).to(x.dtype)
        return _logits(nets, add_noise(x, sigma, rng), sigma, condition)


def _logits(nets: Nets, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
    """The fake score's bottleneck averaged over its channels: one logit per place, [B, places]."""
    return nets.fake.bottleneck(x_t, sigma, condition).mean(dim=1).reshape(len(x_t), -1)
