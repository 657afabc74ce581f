"""Multi-guidance distillation: one evaluation of the student says what two of a guided teacher say, at any guidance
(FADA, arXiv 2412.16915; of a single condition it is stage one of arXiv 2210.03142).

FADA's teacher is guided by a picture and a voice, in three evaluations, and its student is told both weights by learnt
tokens. A class is one condition and needs two evaluations, of the class and of none. Our networks have no tokens: the
student is told the guidance w by w times the vector of the class, so that 0 stands for no class and 1, as everywhere
else, for the class. The weight of the error is PD's; how FADA draws its weights and levels we do not know.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from msd_ray.diffusion import Noise, add_noise, per_sample, sampler_levels
from msd_ray.networks.embedding import told
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets, Optimization
from msd_ray.objectives.pd import weighted_error
from msd_ray.ranges import Weight, within


@dataclass(frozen=True)
class Question(Draft):
    """none: what stands for no class in the second question, [B, classes]."""

    none: Tensor | None = None


@dataclass(frozen=True)
class MultiGuidance:
    """lowest, highest: between which each sample's guidance is drawn. steps: of DDIM, in which the student is to make a
    sample, and at whose levels it learns. guidance: at which it makes samples unless asked otherwise. Raises ValueError
    where it learns no such guidance."""

    noise: Noise = Noise()
    lowest: Weight = 1.0
    highest: Weight = 4.0
    steps: Annotated[int, within(ge=1, le=512)] = 8
    guidance: Weight = 1.0

    def __post_init__(self) -> None:
        if not self.lowest <= self.guidance <= self.highest:
            raise ValueError(
                f"guidance ({self.guidance:g}) must be from lowest ({self.lowest:g}) to highest ({self.highest:g})"
            )

    @property
    def needs(self) -> Needs:
        return Needs(
            follow_up=_of_no_class,
            real_data=True,
            fake=False,
            optimization=Optimization("adam", weight_decay=0.0, clip=1.0),
            makes="denoiser",
            ddim_steps=self.steps,
            guidance=self.guidance,
        )

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        assert batch.real is not None and batch.real_condition is not None
        x, levels = batch.real, sampler_levels(self.noise, self.steps, batch.real)
        sigma = levels[torch.randint(self.steps, (len(x),), generator=rng, device=x.device)]
        none = x.new_zeros(len(x), nets.generator.classes)
        return Question(x, add_noise(x, sigma, rng), sigma, batch.real_condition, none=none)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        assert teacher_x0 is not None and draft.earlier is not None
        asked, of_class = draft.earlier
        share = torch.rand(len(of_class), generator=rng, device=rng.device, dtype=of_class.dtype)
        weight = self.lowest + share * (self.highest - self.lowest)
        target = teacher_x0 + per_sample(weight, of_class) * (of_class - teacher_x0)
        said = nets.generator(asked.x_t, asked.sigma, told(asked.condition, weight, nets.generator.classes))
        loss = weighted_error(said, target, asked.sigma)
        return Loss(loss, {"guidance": loss.detach()})


def _of_no_class(draft: Draft, teacher_x0: Tensor) -> Draft:
    """The second question: the same for no class."""
    assert isinstance(draft, Question) and draft.none is not None
    return Draft(draft.x, draft.x_t, draft.sigma, draft.none, earlier=(draft, teacher_x0))
