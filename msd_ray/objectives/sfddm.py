"""SFDDM: a student of fewer steps in a single stage, at levels whose noised samples are the teacher's own (arXiv
2405.14961 and its authors' code).

The student's steps are some of the teacher's, so a noised sample has the same distribution for both, and the teacher is
asked just there. As in the code the distances are absolute differences, of the noise that either sees and of features.
Ours is how features are compared: as O2MKD does it, since students may be narrower than their teacher.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from msd_ray.diffusion import Noise, add_noise, per_sample, sampler_levels
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets, Optimization
from msd_ray.objectives.o2mkd import similarity
from msd_ray.ranges import Weight, within


@dataclass(frozen=True)
class SFDDM:
    """steps: of DDIM, in which the student is to make a sample, and at whose levels alone it learns. feature_weight: of
    the difference of the bottlenecks' similarity matrices."""

    noise: Noise = Noise()
    steps: Annotated[int, within(ge=1, le=512)] = 8
    feature_weight: Weight = 1.0

    @property
    def needs(self) -> Needs:
        return Needs(
            real_data=True,
            fake=False,
            encoder=self.feature_weight > 0,
            optimization=Optimization("adam", weight_decay=0.0, clip=0.0),
            makes="denoiser",
            ddim_steps=self.steps,
        )

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        assert batch.real is not None and batch.real_condition is not None
        x, levels = batch.real, sampler_levels(self.noise, self.steps, batch.real)
        sigma = levels[torch.randint(self.steps, (len(x),), generator=rng, device=x.device)]
        return Draft(x, add_noise(x, sigma, rng), sigma, batch.real_condition)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        assert teacher_x0 is not None
        question = (draft.x_t, draft.sigma, draft.condition)
        error = (nets.generator(*question) - teacher_x0) / per_sample(draft.sigma, draft.x_t)
        total = noise = error.abs().mean()
        parts = {"noise": noise.detach()}
        if self.feature_weight:
            assert nets.encoder is not None
            with torch.no_grad():
                goal = similarity(nets.encoder.bottleneck(*question))
            feature = (similarity(nets.generator.bottleneck(*question)) - goal).abs().mean()
            total, parts["features"] = total + self.feature_weight * feature, feature.detach()
        return Loss(total, parts)
