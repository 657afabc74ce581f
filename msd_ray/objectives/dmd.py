"""DMD, the first version: DM plus a regression onto pairs of noise and teacher sample (arXiv 2311.18828, section 3)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from msd_ray.diffusion import Noise, one_step
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets
from msd_ray.objectives.dm import DM, check_span
from msd_ray.objectives.sample_distances import Distance, distance
from msd_ray.ranges import BelowOne, Share, Weight


@dataclass(frozen=True)
class DMD:
    """regression_weight, distance: of the regression. The pairs are of all classes, also those that the student does
    not own: MSD saw modes collapse where they were filtered. first, last: as in DM."""

    noise: Noise = Noise()
    first: BelowOne = 0.02
    last: Share = 0.98
    regression_weight: Weight = 0.25
    distance: Distance = "huber"

    def __post_init__(self) -> None:
        check_span(self.first, self.last)

    @property
    def needs(self) -> Needs:
        return Needs(pairs=True)

    @property
    def _dm(self) -> DM:
        return DM(self.noise, self.first, self.last)

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        return self._dm.draft(nets, batch, rng)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        assert batch.pairs is not None
        dm = self._dm.generator_loss(nets, draft, batch, teacher_x0, rng)
        made = one_step(nets.generator, batch.pairs.z, batch.pairs.condition, self.noise.sigma_init)
        regression = distance(self.distance, made, batch.pairs.x).mean()
        total = dm.total + self.regression_weight * regression
        return Loss(total, {**dm.parts, "regression": regression.detach()})

    def fake_loss(self, nets: Nets, x: Tensor, batch: Batch, rng: torch.Generator) -> Loss:
        return self._dm.fake_loss(nets, x, batch, rng)
