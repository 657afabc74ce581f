"""PID: physics-informed distillation: the student solves the teacher's ODE, and is taught by the residual (arXiv
2411.08378 and its official code).

Needs no data and no average of the weights. As there the derivative is a difference of two points of the student, both
of which have a gradient, the teacher's answer has none, and the boundary holds by how the point is made. Unlike there
the distance is pseudo-Huber unless the recipe asks for lpips, and the network sees t as `trajectory.signal` says.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from msd_ray.diffusion import Noise, per_sample
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets, Optimization
from msd_ray.objectives.sample_distances import Distance, distance
from msd_ray.objectives.trajectory import check_karras, signal, times
from msd_ray.ranges import within


@dataclass(frozen=True)
class PID:
    """levels: points of the trajectory, of which neighbours make the difference (250 in the paper). distance: between
    the clean sample that the slope at a point leads to, and the teacher's. Raises ValueError where the noise has a
    table."""

    noise: Noise = Noise()
    levels: Annotated[int, within(ge=2, le=10**6)] = 250
    distance: Distance = "huber"

    def __post_init__(self) -> None:
        check_karras(self.noise)

    @property
    def needs(self) -> Needs:
        return Needs(fake=False, optimization=Optimization("radam", weight_decay=0.0, clip=0.0))

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        z, grid = batch.z, times(self.noise, self.levels, batch.z)
        t = grid[torch.randint(self.levels, (len(z),), generator=rng, device=z.device)]
        with torch.no_grad():
            y = self._point(nets, batch, t)
        return Draft(y, y + per_sample(t, z) * z, t, batch.condition)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        """The ODE is y - t dy/dt = D(y + t z; t)."""
        assert teacher_x0 is not None
        t, near = draft.sigma, self._neighbour(draft.sigma, draft.x)
        y, other = self._point(nets, batch, t), self._point(nets, batch, near)
        clean = y - per_sample(t / (t - near), y) * (y - other)
        loss = distance(self.distance, clean, teacher_x0).mean()
        return Loss(loss, {"pid": loss.detach()})

    def _point(self, nets: Nets, batch: Batch, t: Tensor) -> Tensor:
        """0 at the highest t, where the trajectory is pure noise, and what the generator makes at the lowest."""
        made = signal(nets.generator, self.noise, batch.z, t, batch.condition)
        return per_sample(1 - t / self.noise.sigma_init, made) * made

    def _neighbour(self, t: Tensor, like: Tensor) -> Tensor:
        """The point below, or above the lowest."""
        grid = times(self.noise, self.levels, like)
        index = torch.searchsorted(grid, t)
        return grid[torch.where(index > 0, index - 1, 1)]
