"""Di[M]O: a teacher of masked tokens into a one-step generator (arXiv 2503.15457 and its authors' code).

Tokens are drawn, so no gradient passes through a sample. Instead some of the generator's own tokens are masked, and
there its logits are moved as those of the fake score would have to move to come nearer to the teacher's (the authors'
approximation). The fake score, their auxiliary model, learns what the generator makes, as the teacher learnt the data.
Ours are that each token is masked by itself, means over masks, and no guidance of the teacher.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from msd_ray.diffusion import Noise, drawn_tokens, mask_shares, masked, masked_loss, over_masks
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets, Optimization, generated
from msd_ray.ranges import within


@dataclass(frozen=True)
class DiMO:
    """beta: of the generalised Jeffreys divergence, the share of the reverse Kullback-Leibler divergence beside the
    forward one; below 0 it seeks variety. noise.sigma_init: share of masks that the generator begins with."""

    noise: Noise = Noise()
    beta: Annotated[float, within(ge=-1, le=1)] = 0.0

    @property
    def needs(self) -> Needs:
        return Needs(optimization=Optimization("adam", weight_decay=0.0, clip=1.0, fake_steps=1))

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        logits = generated(nets.generator, batch, self.noise)
        share = mask_shares(logits, rng)
        return Draft(logits, masked(drawn_tokens(logits, batch.z), share, rng), share, batch.condition)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        assert teacher_x0 is not None
        with torch.no_grad():
            fake = nets.fake(draft.x_t, draft.sigma, draft.condition)
            value, gradient = jeffreys(teacher_x0, fake, self.beta)
        total = over_masks((gradient * draft.x).sum(dim=1, keepdim=True), draft.x_t)
        return Loss(total, {"dimo": over_masks(value, draft.x_t)})

    def fake_loss(self, nets: Nets, x: Tensor, batch: Batch, rng: torch.Generator) -> Loss:
        loss = masked_loss(nets.fake, drawn_tokens(x, batch.z), batch.condition, rng)
        return Loss(loss, {"fake_score": loss.detach()})


def jeffreys(teacher: Tensor, fake: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """(1 - beta) KL(teacher | fake) + beta KL(fake | teacher) of logits [B, n, ...] over n: the divergence [B, 1, ...],
    and its gradient [B, n, ...] in the fake score's logits."""
    real, ours = teacher.log_softmax(dim=1), fake.log_softmax(dim=1)
    apart, p_real, p_fake = ours - real, real.exp(), ours.exp()
    forward, reverse = (-(p_real * apart).sum(dim=1, keepdim=True), (p_fake * apart).sum(dim=1, keepdim=True))
    gradient = (1 - beta) * (p_fake - p_real) + beta * p_fake * (apart - reverse)
    return (1 - beta) * forward + beta * reverse, gradient
