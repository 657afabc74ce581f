"""Uni-Instruct: an f-divergence from teacher to generator, expanded over the noise levels (arXiv 2505.20755).

With p and q the densities of the generator's and the teacher's noised samples and r = q / p, the divergence is an
integral over the levels of E_p[h(r) |grad log r|^2], where h(r) = r^2 f''(r). If the fake score is that of p, the
gradient of this mean is that of h(r) times SiD's loss with alpha = 1/2 + r h'(r) / (2 h(r)), through all that depends
on x_t, the ratio too. That follows from the identity that SiD is made of and an integration by parts. So SiD with
alpha 1/2 is the reverse KL divergence, and h(r) times SiD with alpha 1 the forward one. The derivation is ours; how the
paper's code computes it we have not seen. The discriminator of SiDA gives the ratio, and joins the loss as there.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from msd_ray.diffusion import Noise, per_sample
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets
from msd_ray.objectives.fdistill import Divergence, h, ratio_of
from msd_ray.objectives.sid import identity_loss
from msd_ray.objectives.sida import SiDA, encoder_logits
from msd_ray.ranges import ImagesOrNone, LogSigma, Share, Spread, Weight


@dataclass(frozen=True)
class UniInstruct:
    """divergence: forward-kl has the paper's best figure on ImageNet-64. Other fields as in SiDA."""

    noise: Noise = Noise()
    divergence: Divergence = "forward-kl"
    last: Share = 0.8
    p_mean: LogSigma = -1.2
    p_std: Spread = 1.2
    sid_weight: Weight = 100.0
    gan_weight: Weight = 0.01
    head_weight: Weight = 1.0
    gan_from: ImagesOrNone = 200_000

    @property
    def needs(self) -> Needs:
        return self._sida.needs

    @property
    def _sida(self) -> SiDA:
        weights = self.sid_weight, self.gan_weight, self.head_weight
        return SiDA(self.noise, 1.0, self.last, self.p_mean, self.p_std, *weights, self.gan_from)

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        return self._sida.draft(nets, batch, rng)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        assert teacher_x0 is not None
        asked = (draft.x_t, draft.sigma, draft.condition)
        logits = encoder_logits(nets, *asked)
        ratio = ratio_of(logits.mean(dim=1))
        losses = expanded_loss(draft.x, teacher_x0, nets.fake(*asked), ratio, self.divergence)
        expanded = losses.mean() / h(ratio.detach(), self.divergence).mean()  # as large as SiD's
        total, gan = self._sida.with_gan(expanded, draft.x, teacher_x0, logits, batch.seen)
        return Loss(total, {"expanded": expanded.detach(), "gan": gan.detach()})

    def fake_loss(self, nets: Nets, x: Tensor, batch: Batch, rng: torch.Generator) -> Loss:
        return self._sida.fake_loss(nets, x, batch, rng)


def expanded_loss(x: Tensor, teacher_x0: Tensor, fake_x0: Tensor, ratio: Tensor, divergence: Divergence) -> Tensor:
    """Each sample's loss [B], over the teacher's error as SiD's is, for x, teacher_x0 and fake_x0 [B, ...] and the
    density ratio [B] with their graphs."""
    alpha = per_sample(0.5 + growth(ratio, divergence) / 2, x)
    return h(ratio, divergence) * identity_loss(x, teacher_x0, fake_x0, alpha)


def growth(ratio: Tensor, divergence: Divergence) -> Tensor:
    """r h'(r) / h(r) of each ratio [B]."""
    return {
        "reverse-kl": torch.zeros_like(ratio),
        "forward-kl": torch.ones_like(ratio),
        "js": 1 / (1 + ratio),
        "hellinger": torch.full_like(ratio, 0.5),
        "jeffreys": ratio / (1 + ratio),
    }[divergence]
