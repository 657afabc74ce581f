"""Consistency distillation (arXiv 2303.01469, algorithm 2 and its official code).

Two deviations. The distance is pseudo-Huber unless the recipe asks for lpips, whose weights are not at hand everywhere;
there the official code has a VGG with average pooling, and the package lpips one with maxima. The average that becomes
the result has the recipe's half-life in images: the paper's 0.9999 per update of 2,048 images is one of 14 million.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from msd_ray.diffusion import Noise, add_noise, per_sample
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets, Optimization, partly_own
from msd_ray.objectives.sample_distances import Distance, distance
from msd_ray.ranges import BelowOne, Share, within


@dataclass(frozen=True)
class Consistency:
    """levels: of the Karras grid that neighbouring points are taken from; the levels of a generator's further steps, at
    which sampling asks it, are points beside these. distance: between what the generator says at one point and what its
    target says at the next, one step of Heun's method below on the teacher's ODE. target_decay: how much of the target,
    an average of the generator's weights, an update keeps. own: share of each batch that begins from the student's own
    samples instead of real ones (DDIL, arXiv 2410.11971)."""

    noise: Noise = Noise()
    levels: Annotated[int, within(ge=2, le=10**6)] = 18
    distance: Distance = "huber"
    target_decay: BelowOne = 0.95
    own: Share = 0.0

    @property
    def needs(self) -> Needs:
        return Needs(
            real_data=True,
            fake=False,
            boundary=True,
            follow_up=self._one_level_below,
            target_decay=self.target_decay,
            few_steps=True,
            optimization=Optimization("radam", weight_decay=0.0, clip=0.0),
        )

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        x, condition = partly_own(nets, batch, self.noise, self.own)
        grid = self._grid(x)
        sigma = grid[torch.randint(1, len(grid), (len(x),), generator=rng, device=x.device)]
        return Draft(x, add_noise(x, sigma, rng), sigma, condition)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        assert teacher_x0 is not None and nets.target is not None and draft.earlier is not None
        above, above_x0 = draft.earlier
        with torch.no_grad():
            slope = (_slope(above, above_x0) + _slope(draft, teacher_x0)) / 2
            target = nets.target(_moved(above, draft.sigma, slope), draft.sigma, draft.condition)
        loss = distance(self.distance, nets.generator(above.x_t, above.sigma, above.condition), target).mean()
        return Loss(loss, {"consistency": loss.detach()})

    def _one_level_below(self, draft: Draft, teacher_x0: Tensor) -> Draft:
        """The second question: where Euler's step leads."""
        grid = self._grid(draft.x)
        below = grid[torch.searchsorted(grid, draft.sigma) - 1]
        x_below = _moved(draft, below, _slope(draft, teacher_x0))
        return Draft(draft.x, x_below, below, draft.condition, earlier=(draft, teacher_x0))

    def _grid(self, x: Tensor) -> Tensor:
        grid, further = self.noise.grid(self.levels, device=x.device), self.noise.step_levels[1:]
        return torch.cat([grid, grid.new_tensor(further)]).sort().values.to(x.dtype)


def _slope(draft: Draft, teacher_x0: Tensor) -> Tensor:
    """dx/dsigma of the teacher's ODE (EDM, arXiv 2206.00364, equation 1)."""
    return (draft.x_t - teacher_x0) / per_sample(draft.sigma, draft.x_t)


def _moved(draft: Draft, sigma: Tensor, slope: Tensor) -> Tensor:
    return draft.x_t + per_sample(sigma - draft.sigma, slope) * slope
