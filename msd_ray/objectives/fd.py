"""FD: the Frechet distance between features of generated and real samples as a loss (arXiv 2604.28190).

As there, the distance is that of many samples, and only the batch has a gradient: the rest are features of earlier
batches. How the paper fills and weighs them we do not know; what is said below of either is ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from msd_ray.diffusion import Noise, add_noise
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets, generated
from msd_ray.ranges import within

RIDGE = 1e-3
"""Of the mean variance of real features, added to all variances: few samples leave directions without any."""


@dataclass(frozen=True)
class FD:
    """features: `teacher`, the frozen teacher's at its narrowest point, averaged over places, of samples noised to
    `sigma`, for their own conditions; or `samples`, the numbers of the samples themselves. queue: how many features of
    earlier batches are kept, of real and of generated samples each.

    The gradient is what the batch says of that of the whole queue: that of the distance, times samples per sample of
    the batch. Features of earlier batches are of earlier generators, so that a queue should be short beside the images
    of the stage.
    """

    noise: Noise = Noise()
    features: Literal["teacher", "samples"] = "teacher"
    sigma: Annotated[float, within(ge=0, le=1e6)] = 0.2
    queue: Annotated[int, within(ge=2, le=10**6)] = 1024

    @property
    def needs(self) -> Needs:
        of_teacher = self.features == "teacher"
        return Needs(
            teacher="none",
            real_data=True,
            fake=False,
            encoder=of_teacher,
            memory=self._memory,
            few_steps=True,
            minimised=() if of_teacher else ("identity",),
        )

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        x = generated(nets.generator, batch, self.noise)
        return Draft(x, x.detach(), x.new_zeros(len(x)), batch.condition)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        assert batch.real is not None and batch.real_condition is not None
        made = self._features(nets, draft.x, draft.condition, rng)
        with torch.no_grad():
            real = self._features(nets, batch.real, batch.real_condition, rng)
        finite = made.isfinite().all() & real.isfinite().all()
        distance, per_sample = self._distance(nets.memory, made.nan_to_num(0, 0, 0), real.nan_to_num(0, 0, 0))
        self._keep(nets.memory, made.detach(), real, finite)
        total = distance.detach() + per_sample * (distance - distance.detach())
        told = torch.where(finite, 1.0, torch.nan)  # so that the trainer leaves the update out
        return Loss((told * total).to(made.dtype), {"fd": distance.detach().to(made.dtype)})

    def _features(self, nets: Nets, x: Tensor, condition: Tensor, rng: torch.Generator) -> Tensor:
        """[B, d]"""
        if self.features == "samples":
            return x.flatten(1)
        assert nets.encoder is not None
        sigma = torch.full((len(x),), self.sigma, dtype=x.dtype, device=x.device)
        features = nets.encoder.bottleneck(add_noise(x, sigma, rng), sigma, condition)
        return features.reshape(len(x), features.shape[1], -1).mean(dim=2)

    def _distance(self, memory: dict[str, Tensor], made: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """That of the batches with their queues, and how many samples it is of for each of the batch."""
        earlier = (memory["filled"][0] - 1).clamp_max(self.queue)  # memory begins as ones
        known = torch.arange(self.queue, device=made.device) < earlier
        ours, theirs = _moments(made, memory["made"], known), _moments(real, memory["real"], known)
        return frechet(*ours, *theirs), (earlier.double() + len(made)) / len(made)

    def _keep(self, memory: dict[str, Tensor], made: Tensor, real: Tensor, finite: Tensor) -> None:
        """Puts the features before the others of the queues, whose oldest leave, if all are finite."""
        for name, batch in (("made", made), ("real", real)):
            queue = memory[name]
            queue.copy_(torch.where(finite, torch.cat([batch.to(queue.dtype), queue])[: len(queue)], queue))
        memory["filled"].add_(finite * len(made))

    def _memory(self, nets: Nets, sample_shape: tuple[int, ...]) -> Mapping[str, tuple[int, ...]]:
        width = torch.Size(sample_shape).numel()
        if self.features == "teacher":
            assert nets.encoder is not None
            width = nets.encoder.network.bottleneck_shape[0]
        return {"made": (self.queue, width), "real": (self.queue, width), "filled": (1,)}


def frechet(mean: Tensor, covariance: Tensor, real_mean: Tensor, real_covariance: Tensor) -> Tensor:
    """The squared Frechet distance between two Gaussians (FID, arXiv 1706.08500, equation 6), with a gradient in the
    first two. The trace of (S1 S2)^(1/2) is the sum of the square roots of the eigenvalues of S2^(1/2) S1 S2^(1/2)."""
    ridge = RIDGE * real_covariance.diagonal().mean() * torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
    s1, s2 = covariance + ridge, real_covariance + ridge
    with torch.no_grad():
        values, vectors = torch.linalg.eigh(s2)
        root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ s1 @ root).clamp_min(1e-20).sqrt().sum()
    distance: Tensor = (mean - real_mean).square().sum() + s1.trace() + s2.trace() - 2 * shared
    return distance


def _moments(batch: Tensor, queue: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [d] and unbiased covariance [d, d] of the features of the batch [B, d] and of those rows of the queue [n, d]
    that are known [n], in float64."""
    rows = torch.cat([batch.double(), queue.double()])
    weight = torch.cat([torch.ones(len(batch), device=batch.device), known]).double()[:, None]
    n = weight.sum()
    mean = (weight * rows).sum(dim=0) / n
    apart = weight * (rows - mean)
    return mean, apart.T @ apart / (n - 1).clamp_min(1)
