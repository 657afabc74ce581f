"""Flow trajectory distillation: one step from a small picture, held to the teacher's flow from noise to image (FluxSR,
arXiv 2502.01993; its formulas were not at hand, those below are our derivation).

Pairs of noise z and of the image x that the teacher's ODE makes of it stand for its flow, whose chord is z for each
unit of sigma. Let u be the small picture, enlarged, from which a student begins. To reach x as sigma falls to 0, the
point u + sigma z has to move by z + (u - x) / sigma: the teacher's chord, and the way from small to large. That holds
at every level from sigma_init, where sampling begins, up to pure noise, and wherever it does the denoiser says x. With
t = sigma / (1 + sigma), the time of a rectified flow, the denoiser's error over t is that of the flow's velocity.
"""

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from msd_ray.diffusion import Noise, from_origin, one_step, per_sample
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets
from msd_ray.objectives.sample_distances import Distance, distance
from msd_ray.objectives.trajectory import check_karras
from msd_ray.ranges import Weight

_Level = TypeVar("_Level", float, Tensor)


@dataclass(frozen=True)
class FlowTrajectory:
    """endpoint_weight, distance: of the one step that sampling takes, beside the squared error of the velocity at times
    drawn evenly from the beginning to pure noise. Needs no data, and of the teacher nothing but its pairs. Raises
    ValueError where the noise has a table."""

    noise: Noise = Noise()
    endpoint_weight: Weight = 1.0
    distance: Distance = "huber"

    def __post_init__(self) -> None:
        check_karras(self.noise)

    @property
    def needs(self) -> Needs:
        return Needs(teacher="none", pairs=True, own_pairs=True, fake=False)

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        assert batch.pairs is not None
        z, condition = batch.pairs.z, batch.pairs.condition
        first, last = (_time(sigma) for sigma in (self.noise.sigma_init, self.noise.sigma_max))
        t = first + (last - first) * torch.rand(len(z), generator=rng, device=z.device, dtype=z.dtype)
        sigma = t / (1 - t)
        return Draft(batch.pairs.x, from_origin(nets.generator, per_sample(sigma, z) * z, condition), sigma, condition)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        assert batch.pairs is not None
        x, condition = draft.x, draft.condition
        error = nets.generator(draft.x_t, draft.sigma, condition) - x
        trajectory = ((error / per_sample(_time(draft.sigma), x)) ** 2).mean()
        made = one_step(nets.generator, batch.pairs.z, condition, self.noise.sigma_init)
        endpoint = distance(self.distance, made, x).mean()
        total = trajectory + self.endpoint_weight * endpoint
        return Loss(total, {"trajectory": trajectory.detach(), "endpoint": endpoint.detach()})


def _time(sigma: _Level) -> _Level:
    """Of a rectified flow."""
    return sigma / (1 + sigma)
