"""RDD: progressive distillation that also compares how features relate to each other (arXiv 2410.07679 and its official
code).

Features are of the clean samples that the student says and that its teacher's two steps mean, and are compared as
distributions: of their means, of each pixel's likeness to all pixels of the batch, and of its likeness to pixels of
earlier batches. As there, the squared error of PD has no weight unless asked. Ours are the features: there a classifier
of the data gives them, here the frozen teacher; and since both samples' features come from one network, none is
projected.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from msd_ray.diffusion import Noise, add_noise
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets
from msd_ray.objectives.pd import PD, weighted_error
from msd_ray.ranges import Weight, within

MEANS_TEMPERATURE, QUEUE_TEMPERATURE = 0.9, 0.1
ENQUEUED = 128
"""So many pixels of each batch enter the queue."""


@dataclass(frozen=True)
class RDD:
    """steps, teacher: as PD has them. output_weight: of PD's loss. means_weight, batch_weight, queue_weight: of the
    three comparisons of features. queue: so many pixels of earlier batches are kept. sigma: noise level at which the
    frozen teacher looks at both samples, which get the same noise. Raises ValueError as PD does."""

    noise: Noise = Noise()
    steps: Annotated[int, within(ge=1, le=512)] = 1
    teacher: Literal["frozen", "before"] = "frozen"
    output_weight: Weight = 0.0
    means_weight: Weight = 1.0
    batch_weight: Weight = 1.0
    queue_weight: Weight = 0.1
    queue: Annotated[int, within(ge=1, le=10**6)] = 4096
    sigma: Annotated[float, within(gt=0, le=1e6)] = 0.2

    def __post_init__(self) -> None:
        PD(self.noise, self.steps, self.teacher)

    @property
    def _pd(self) -> PD:
        return PD(self.noise, self.steps, self.teacher)

    @property
    def needs(self) -> Needs:
        return replace(self._pd.needs, encoder=True, memory=self._memory)

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        return self._pd.draft(nets, batch, rng)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        said, meant, sigma = self._pd.said_and_meant(nets, draft, teacher_x0)
        features = self._features(nets, said, meant, draft.condition, rng)
        means, pixels = [f.mean(dim=2) for f in features], [F.normalize(f, dim=1) for f in features]
        queue = _queued(nets.memory["queue"], pixels[1], rng).to(said.dtype)
        terms = {
            "pd": (self.output_weight, weighted_error(said, meant, sigma)),
            "means": (self.means_weight, divergence(means[0], means[1] / MEANS_TEMPERATURE)),
            "batch": (self.batch_weight, divergence(*(_likeness(p, p) for p in pixels))),
            "queue": (self.queue_weight, divergence(*(_likeness(p, queue) / QUEUE_TEMPERATURE for p in pixels))),
        }
        total = torch.stack([weight * term for weight, term in terms.values()]).sum()
        return Loss(total, {name: term.detach() for name, (_, term) in terms.items()})

    def _features(
        self, nets: Nets, said: Tensor, meant: Tensor, condition: Tensor, rng: torch.Generator
    ) -> list[Tensor]:
        """Of both samples, [B, d, pixels]."""
        assert nets.encoder is not None
        sigma = said.new_full(said.shape[:1], self.sigma)
        noise = add_noise(torch.zeros_like(said), sigma, rng)
        maps = [nets.encoder.bottleneck(x + noise, sigma, condition) for x in (said, meant)]
        return [h.reshape(*h.shape[:2], -1) for h in maps]

    def _memory(self, nets: Nets, sample_shape: tuple[int, ...]) -> Mapping[str, tuple[int, ...]]:
        assert nets.encoder is not None
        return {"queue": (self.queue, nets.encoder.network.bottleneck_shape[0])}


def divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    """The mean Kullback-Leibler divergence of our distributions from theirs, both as logits [..., n]."""
    goal = theirs.log_softmax(dim=-1)
    return (goal.exp() * (goal - ours.log_softmax(dim=-1))).sum(dim=-1).mean()


def _likeness(pixels: Tensor, others: Tensor) -> Tensor:
    """Cosines of pixels [B, d, n] with others [C, d, m], all of length 1: [B, C, n, m]."""
    return torch.einsum("bdi,cdj->bcij", pixels, others)


@torch.no_grad()
def _queued(queue: Tensor, pixels: Tensor, rng: torch.Generator) -> Tensor:
    """The queue, as pixels [1, d, n] of length 1, with some of the pixels [B, d, m] before the others, if all are
    finite; the oldest leave. It begins as ones, which tell no pixels apart."""
    rows = pixels.transpose(1, 2).flatten(0, 1).to(queue.dtype)
    chosen = rows[torch.randperm(len(rows), generator=rng, device=rng.device)[:ENQUEUED]]
    queue.copy_(torch.where(chosen.isfinite().all(), torch.cat([chosen, queue])[: len(queue)], queue))
    return F.normalize(queue, dim=1).T[None]
