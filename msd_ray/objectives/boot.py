"""BOOT: a student of the whole trajectory, each point of which is taught by the one before (arXiv 2306.05544).

Needs no data: the student's own point, with the noise on it, is where the teacher is asked. As in the paper the target
has no average of the weights. Ours are the grid, Karras', of which the points are drawn evenly, and the weight of the
boundary: the paper adds it as a second term.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from msd_ray.diffusion import Noise, per_sample
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets, Optimization
from msd_ray.objectives.trajectory import check_karras, signal, times
from msd_ray.ranges import within


@dataclass(frozen=True)
class Step(Draft):
    """x: the student's point at sigma. below: the level [B] of the point that is taught. share: of that at sigma in its
    target [B], the rest is the teacher's answer."""

    below: Tensor | None = None
    share: Tensor | None = None


@dataclass(frozen=True)
class BOOT:
    """levels: points of the trajectory. The first is taught the teacher's answer to pure noise (the boundary), each
    other one where a step of DDIM leads from the student's point before it. Raises ValueError where the noise has a
    table."""

    noise: Noise = Noise()
    levels: Annotated[int, within(ge=2, le=10**6)] = 18

    def __post_init__(self) -> None:
        check_karras(self.noise)

    @property
    def needs(self) -> Needs:
        return Needs(fake=False, optimization=Optimization("adamw", weight_decay=0.0, clip=1.0))

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        z, condition = batch.z, batch.condition
        t = times(self.noise, self.levels, z)
        index = torch.randint(self.levels, (len(z),), generator=rng, device=z.device)
        first, above = index == self.levels - 1, t[(index + 1).clamp_max(self.levels - 1)]
        with torch.no_grad():
            y = per_sample(~first, z) * signal(nets.generator, self.noise, z, above, condition)
        share = ~first * t[index] / above
        return Step(y, y + per_sample(above, z) * z, above, condition, below=t[index], share=share)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        assert isinstance(draft, Step) and draft.below is not None and draft.share is not None
        assert teacher_x0 is not None
        target = teacher_x0 + per_sample(draft.share, draft.x) * (draft.x - teacher_x0)
        error = signal(nets.generator, self.noise, batch.z, draft.below, batch.condition) - target
        loss = ((error / per_sample(1 - draft.share, error)) ** 2).mean()
        return Loss(loss, {"boot": loss.detach()})
