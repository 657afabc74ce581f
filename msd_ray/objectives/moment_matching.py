"""Moment matching: the mean of the clean sample, given a noised one, is to be the teacher's (arXiv 2406.04103,
algorithm 2, with alternating updates).

As there, the fake score learns that mean of generated samples and is held to the teacher, so that it rests between the
two and begins near both. Unlike there, a generator of several steps begins from its own samples (backward simulation),
not from noised real ones, and its noise is new at each level. The weight of the levels is that of DM's fake score.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from msd_ray.diffusion import Noise, add_noise, per_sample
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets, generated
from msd_ray.ranges import Weight


@dataclass(frozen=True)
class MomentMatching:
    """hold: weight of the fake score's distance to the teacher beside its denoising error (1 in the paper). Both are
    taken on generated samples, and both it and the generator ask the frozen teacher in the student's own process, which
    knows no guidance."""

    noise: Noise = Noise()
    hold: Weight = 1.0

    @property
    def needs(self) -> Needs:
        return Needs(teacher="none", encoder=True, few_steps=True, phases=True)

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        x = generated(nets.generator, batch, self.noise)
        sigma = self._levels(x, rng)
        return Draft(x, add_noise(x.detach(), sigma, rng), sigma, batch.condition)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        """Its value says nothing; its gradient in x is the weighted difference of the two means."""
        assert nets.encoder is not None
        asked = (draft.x_t, draft.sigma, draft.condition)
        with torch.no_grad():
            apart = nets.fake(*asked) - nets.encoder(*asked)
        loss = (self._weight(draft.sigma, apart) * apart * draft.x).mean()
        return Loss(loss, {"moments_apart": apart.square().mean()})

    def fake_loss(self, nets: Nets, x: Tensor, batch: Batch, rng: torch.Generator) -> Loss:
        assert nets.encoder is not None
        sigma = self._levels(x, rng)
        asked = (add_noise(x, sigma, rng), sigma, batch.condition)
        with torch.no_grad():
            teacher_x0 = nets.encoder(*asked)
        fake_x0, weight = nets.fake(*asked), self._weight(sigma, x)
        score, held = (weight * (fake_x0 - x) ** 2).mean(), (weight * (fake_x0 - teacher_x0) ** 2).mean()
        return Loss(score + self.hold * held, {"fake_score": score.detach(), "held": held.detach()})

    def _levels(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """A noise level for each sample, [B], from the whole grid."""
        return self.noise.draw(len(x), 0, self.noise.levels - 1, rng).to(x.dtype)

    def _weight(self, sigma: Tensor, like: Tensor) -> Tensor:
        return per_sample(sigma**-2 + self.noise.sigma_data**-2, like)
