"""PD: progressive distillation, which halves the steps of a sampler again and again (arXiv 2202.00512, algorithm 2).

A stage is one round of it: the student learns to do in one step of DDIM what its teacher does in two. The levels are
those of our students of a few steps, which also halve each other's steps, instead of the cosine schedule's; the weight
is the paper's truncated signal-to-noise ratio.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Literal

import torch
from torch import Tensor

from msd_ray.diffusion import Denoiser, Noise, add_noise, per_sample
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets, Optimization
from msd_ray.ranges import Share, within


@dataclass(frozen=True)
class PD:
    """steps: in which the student is to make a sample; 1 makes a one-step generator. teacher: whose two steps it
    learns, the frozen teacher's, or its own as it was `before` the stage, after a stage of twice the steps. own: share
    of each batch that begins where the student's own steps lead from pure noise, instead of at noised real samples
    (DDIL, arXiv 2410.11971). Raises ValueError where the noise has too few levels."""

    noise: Noise = Noise()
    steps: Annotated[int, within(ge=1, le=512)] = 1
    teacher: Literal["frozen", "before"] = "frozen"
    own: Share = 0.0

    def __post_init__(self) -> None:
        replace(self.noise, steps=2 * self.steps)

    @property
    def needs(self) -> Needs:
        frozen = self.teacher == "frozen"
        return Needs(
            teacher="output" if frozen else "none",
            follow_up=self._second_step if frozen else None,
            real_data=True,
            fake=False,
            target_decay=None if frozen else 1.0,
            optimization=Optimization("adam", weight_decay=0.0, clip=1.0),
            makes="generator" if self.steps == 1 else "denoiser",
        )

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        assert batch.real is not None and batch.real_condition is not None
        x = batch.real
        index = 2 * torch.randint(1, self.steps + 1, (len(x),), generator=rng, device=x.device)
        sigma, n = self._levels(x)[index], round(self.own * len(x))
        x_t, condition = add_noise(x, sigma, rng), batch.real_condition
        if n:
            own = self._own_state(nets, batch.z[:n], sigma[:n], batch.condition[:n])
            x_t, condition = torch.cat([own, x_t[n:]]), torch.cat([batch.condition[:n], condition[n:]])
        return Draft(x, x_t, sigma, condition)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        loss = weighted_error(*self.said_and_meant(nets, draft, teacher_x0))
        return Loss(loss, {"pd": loss.detach()})

    def said_and_meant(self, nets: Nets, draft: Draft, teacher_x0: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The clean samples that the student says, and those that lead in one step where its teacher's two steps do,
        [B, ...] each, at the levels [B]."""
        if draft.earlier is None:
            assert nets.target is not None
            draft, teacher_x0 = self._two_steps(nets.target, draft)
        assert draft.earlier is not None and teacher_x0 is not None
        start, after = draft.earlier[0], self._below(draft)
        ratio = per_sample(after / start.sigma, start.x_t)
        target = (_ddim(draft, teacher_x0, after) - ratio * start.x_t) / (1 - ratio)
        return nets.generator(start.x_t, start.sigma, start.condition), target, start.sigma

    @torch.no_grad()
    def _own_state(self, nets: Nets, z: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        """Where the student's steps lead from pure noise, at the level sigma [B] of each."""
        levels = self._levels(z)[::2].flip(0)
        x = levels[0] * z
        for level, below in pairwise(levels):
            start = Draft(x, x, level.expand(len(z)), condition)
            made = _ddim(start, nets.generator(x, start.sigma, condition), below.expand(len(z)))
            x = torch.where(per_sample(sigma < level, x), made, x)
        return x

    @torch.no_grad()
    def _two_steps(self, denoiser: Denoiser, start: Draft) -> tuple[Draft, Tensor]:
        """Between the denoiser's two steps, and what it says there."""
        draft = self._second_step(start, denoiser(start.x_t, start.sigma, start.condition))
        return draft, denoiser(draft.x_t, draft.sigma, draft.condition)

    def _second_step(self, draft: Draft, teacher_x0: Tensor) -> Draft:
        """The second question: where the first step leads."""
        below = self._below(draft)
        return Draft(draft.x, _ddim(draft, teacher_x0, below), below, draft.condition, earlier=(draft, teacher_x0))

    def _below(self, draft: Draft) -> Tensor:
        levels = self._levels(draft.x)
        return levels[torch.searchsorted(levels, draft.sigma) - 1]

    def _levels(self, x: Tensor) -> Tensor:
        """Those of the teacher's steps, rising from 0 to sigma_init."""
        return x.new_tensor([0.0, *reversed(replace(self.noise, steps=2 * self.steps).step_levels)])


def weighted_error(x0: Tensor, target: Tensor, sigma: Tensor) -> Tensor:
    """The mean squared error of clean samples [B, ...] at the levels sigma [B], weighted below 1 by sigma^-2."""
    error = (x0 - target).square().flatten(1).mean(dim=1)
    return ((sigma**-2).clamp_min(1) * error).mean()


def _ddim(draft: Draft, x0: Tensor, below: Tensor) -> Tensor:
    """Where a step of DDIM to the level below leads (arXiv 2010.02502)."""
    return x0 + per_sample(below / draft.sigma, x0) * (draft.x_t - x0)
