"""A method that msd_ray knows nothing of: the generator regresses onto what the teacher makes of its own samples."""

from dataclasses import dataclass

import torch
from torch import Tensor

from msd_ray.diffusion import Noise, add_noise, one_step
from msd_ray.objectives import Batch, Draft, Loss, Needs, Nets


@dataclass(frozen=True)
class Bootstrap:
    noise: Noise = Noise()
    sigma: float = 1.0

    @property
    def needs(self) -> Needs:
        return Needs(fake=False)

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        x = one_step(nets.generator, batch.z, batch.condition, self.noise.sigma_init)
        sigma = torch.full((len(x),), self.sigma, device=x.device)
        return Draft(x, add_noise(x.detach(), sigma, rng), sigma, batch.condition)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        assert teacher_x0 is not None
        loss = (draft.x - teacher_x0).square().mean()
        return Loss(loss, {"bootstrap": loss.detach()})
