"""DFOSD: one-step students without distillation: each image from its own picture, and a noise-aware discriminator
(arXiv 2410.04224).

The discriminator sees noised samples at any level, through the frozen teacher's encoder, which is told the level. The
teacher answers nothing. As far as we know the paper regresses in latents and in DISTS, a perceptual distance, of images
and of their edges; here pixels and edges are compared by their squared errors.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from msd_ray.codecs import edges
from msd_ray.diffusion import Noise, add_noise, lognormal_sigma, one_step
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets, Optimization
from msd_ray.objectives.discriminators import discriminator_gan, generator_gan, projected_head
from msd_ray.ranges import LogSigma, Spread, Weight


@dataclass(frozen=True)
class DFOSD:
    """A student makes each real image of the condition that belongs to it: the regression says what a condition's only
    image is, or the mean of several. edge_weight: of the error of edges, where samples are images. gan_weight: of the
    GAN. p_mean, p_std: of ln sigma at which the discriminator sees samples, as the teacher was trained."""

    noise: Noise = Noise()
    edge_weight: Weight = 1.0
    gan_weight: Weight = 0.01
    p_mean: LogSigma = -1.2
    p_std: Spread = 1.2

    @property
    def needs(self) -> Needs:
        return Needs(
            teacher="none",
            real_data=True,
            fake=False,
            head=projected_head,
            encoder=True,
            optimization=Optimization(fake_steps=1),
        )

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        assert batch.real_condition is not None
        x = one_step(nets.generator, batch.z, batch.real_condition, self.noise.sigma_init)
        return Draft(x, x.detach(), x.new_zeros(len(x)), batch.real_condition)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        assert batch.real is not None
        regression = F.mse_loss(draft.x, batch.real)
        edge = F.mse_loss(edges(draft.x), edges(batch.real))
        gan = generator_gan(self._logits(nets, draft.x, draft.condition, rng))
        total = regression + self.edge_weight * edge + self.gan_weight * gan
        return Loss(total, {"regression": regression.detach(), "edges": edge.detach(), "gan": gan.detach()})

    def fake_loss(self, nets: Nets, x: Tensor, batch: Batch, rng: torch.Generator) -> Loss:
        assert batch.real is not None and batch.real_condition is not None
        on_fake = self._logits(nets, x, batch.condition, rng)
        head = discriminator_gan(on_fake, self._logits(nets, batch.real, batch.real_condition, rng))
        return Loss(head, {"head": head.detach()})

    def _logits(self, nets: Nets, x: Tensor, condition: Tensor, rng: torch.Generator) -> Tensor:
        """[B, resolutions] on clean samples x [B, ...], noised."""
        assert nets.head is not None and nets.encoder is not None
        sigma = lognormal_sigma(x, rng, self.p_mean, self.p_std)
        logits: Tensor = nets.head(nets.encoder.features(add_noise(x, sigma, rng), sigma, condition))
        return logits
