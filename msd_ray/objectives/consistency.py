"""Consistency distillation (arXiv 2303.01469, algorithm 2)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from msd_ray.diffusion import Noise, add_noise, per_sample
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets, Optimization
from msd_ray.objectives.distances import Distance, distance


@dataclass(frozen=True)
class Consistency:
    """levels: of the Karras grid that neighbouring points are taken from. distance: between what the generator says at
    one point and what its average says at the next, one Euler step of the teacher's ODE below."""

    noise: Noise = Noise()
    levels: Annotated[int, Field(ge=2, le=10**6)] = 18
    distance: Distance = "huber"

    @property
    def needs(self) -> Needs:
        optimization = Optimization("radam", weight_decay=0.0, clip=0.0)
        return Needs(real_data=True, fake=False, boundary=True, optimization=optimization)

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        assert batch.real is not None and batch.real_condition is not None
        x = batch.real
        index = torch.randint(1, self.levels, (len(x),), generator=rng, device=x.device)
        sigma = self._grid(x)[index]
        return Draft(x, add_noise(x, sigma, rng), sigma, batch.real_condition)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        assert teacher_x0 is not None and nets.ema is not None
        x_t, sigma, grid = draft.x_t, draft.sigma, self._grid(draft.x)
        below = grid[torch.searchsorted(grid, sigma) - 1]
        with torch.no_grad():
            slope = (x_t - teacher_x0) / per_sample(sigma, x_t)
            x_below = x_t + per_sample(below - sigma, x_t) * slope
            target = nets.ema(x_below, below, draft.condition)
        loss = distance(self.distance, nets.generator(x_t, sigma, draft.condition), target).mean()
        return Loss(loss, {"consistency": loss.detach()})

    def fake_loss(self, nets: Nets, x: Tensor, batch: Batch, rng: torch.Generator) -> Loss:
        raise NotImplementedError("consistency distillation has no fake score")

    def _grid(self, like: Tensor) -> Tensor:
        return self.noise.grid(self.levels, like.device).to(like.dtype)
