"""O2MKD: one teacher, many students, each for a part of the noise levels (arXiv 2410.04191)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from msd_ray.diffusion import Noise, add_noise, edm_weight, per_sample
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets
from msd_ray.ranges import Weight


@dataclass(frozen=True)
class O2MKD:
    """The student learns the teacher's output on noised real samples, at the levels from noise.sigma_min to
    noise.sigma_max, which a plan narrows to those that the student owns.

    data_weight: of the error against the real sample. feature_weight: of the difference of the bottlenecks' similarity
    matrices (similarity-preserving distillation, arXiv 1907.09682), which compares networks of any widths. Neither
    weight is published.
    """

    noise: Noise = Noise()
    data_weight: Weight = 0.1
    feature_weight: Weight = 0.1

    @property
    def needs(self) -> Needs:
        return Needs(real_data=True, fake=False, encoder=self.feature_weight > 0, makes="denoiser")

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        assert batch.real is not None and batch.real_condition is not None
        x = batch.real
        sigma = self.noise.draw(len(x), 0, self.noise.levels - 1, rng).to(x.dtype)
        return Draft(x, add_noise(x, sigma, rng), sigma, batch.real_condition)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        assert teacher_x0 is not None
        question = (draft.x_t, draft.sigma, draft.condition)
        x0 = nets.generator(*question)
        weight = per_sample(edm_weight(draft.sigma, self.noise.sigma_data), x0)
        output = (weight * (x0 - teacher_x0) ** 2).mean()
        data = (weight * (x0 - draft.x) ** 2).mean()
        total, parts = output + self.data_weight * data, {"output_kd": output.detach(), "data": data.detach()}
        if self.feature_weight:
            assert nets.encoder is not None
            with torch.no_grad():
                goal = similarity(nets.encoder.bottleneck(*question))
            feature = (similarity(nets.generator.bottleneck(*question)) - goal).square().mean()
            total, parts["feature_kd"] = total + self.feature_weight * feature, feature.detach()
        return Loss(total, parts)


def similarity(features: Tensor) -> Tensor:
    """How alike the samples of a batch are to each other in `features` [B, ...]: [B, B], each row of length 1."""
    rows = features.flatten(1)
    return F.normalize(rows @ rows.T, dim=1)
