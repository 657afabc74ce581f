"""TSM: teacher score matching, which gives a smaller student a start (MSD, arXiv 2410.23274)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from msd_ray.diffusion import Noise, add_noise, edm_weight, lognormal_sigma, per_sample
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets
from msd_ray.ranges import LogSigma, Spread


@dataclass(frozen=True)
class TSM:
    """On noised real samples the student learns what the teacher says. p_mean, p_std: of ln sigma, EDM's.

    The weight lambda_t is not published; here it is EDM's.
    """

    noise: Noise = Noise()
    p_mean: LogSigma = -1.2
    p_std: Spread = 1.2

    @property
    def needs(self) -> Needs:
        return Needs(real_data=True, fake=False, makes="denoiser")

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        assert batch.real is not None and batch.real_condition is not None
        x = batch.real
        sigma = lognormal_sigma(x, rng, self.p_mean, self.p_std)
        return Draft(x, add_noise(x, sigma, rng), sigma, batch.real_condition)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        assert teacher_x0 is not None
        error = nets.generator(draft.x_t, draft.sigma, draft.condition) - teacher_x0
        weight = per_sample(edm_weight(draft.sigma, self.noise.sigma_data), error)
        loss = (weight * error**2).mean()
        return Loss(loss, {"tsm": loss.detach()})
