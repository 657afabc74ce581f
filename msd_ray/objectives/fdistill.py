"""f-distill: DM with each sample weighted by a function of the density ratio (arXiv 2502.15681).

The official code averages the ratio in ten bins that are even in sigma, most of which a Karras grid hardly ever meets;
ours are even parts of that grid. And it adds 1e-6 to the mean that the weights are divided by, which ratios of at least
0.1 do without.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from msd_ray.diffusion import Noise
from msd_ray.objectives.adm import ADM
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets
from msd_ray.objectives.discriminators import bottleneck_head, generator_gan
from msd_ray.objectives.dm import check_span, matching_loss
from msd_ray.ranges import BelowOne, Share, Weight

Divergence = Literal["reverse-kl", "forward-kl", "js", "hellinger", "jeffreys"]
BINS = 10


@dataclass(frozen=True)
class FDistill:
    """divergence: what is minimised between generator and teacher; reverse-kl is ADM. memory: how much of the ratio's
    average per noise level an update keeps. Other fields as in ADM, whose GAN supplies the ratio."""

    noise: Noise = Noise()
    first: BelowOne = 0.02
    last: Share = 0.98
    generator_weight: Weight = 3e-3
    head_weight: Weight = 1e-2
    divergence: Divergence = "js"
    memory: BelowOne = 0.99

    def __post_init__(self) -> None:
        check_span(self.first, self.last)

    @property
    def needs(self) -> Needs:
        return Needs(real_data=True, head=bottleneck_head, memory=_memory, few_steps=True, phases=True)

    @property
    def _adm(self) -> ADM:
        return ADM(self.noise, self.first, self.last, self.generator_weight, self.head_weight)

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        return self._adm.draft(nets, batch, rng)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        assert teacher_x0 is not None
        with torch.no_grad():
            fake_x0 = nets.fake(draft.x_t, draft.sigma, draft.condition)
            logits = nets.logits(draft.x_t, draft.sigma, draft.condition)[:, 0]
            average = self._average(nets.memory["ratio"], density_ratio(logits), draft.sigma)
            weight = density_weight(logits, self.divergence, average)
        matching = matching_loss(draft.x, teacher_x0, fake_x0, weight)
        gan = generator_gan(self._adm.logits(nets, draft.x, draft.condition, rng))
        parts = {"f_distill": matching.detach(), "gan": gan.detach(), "spread_of_weights": weight.std()}
        return Loss(matching + self.generator_weight * gan, parts)

    def fake_loss(self, nets: Nets, x: Tensor, batch: Batch, rng: torch.Generator) -> Loss:
        return self._adm.fake_loss(nets, x, batch, rng)

    def _average(self, averages: Tensor, ratio: Tensor, sigma: Tensor) -> Tensor:
        """Each sample's average ratio [B], by part of the noise grid; first takes the batch into `averages` [BINS]."""
        grid = self.noise.grid(device=sigma.device)
        part = torch.searchsorted(grid, sigma.to(grid.dtype)).clamp_max(len(grid) - 1) * BINS // len(grid)
        none = torch.zeros_like(averages)
        counts = none.index_add(0, part, torch.ones_like(ratio, dtype=none.dtype))
        means = none.index_add(0, part, ratio.to(none.dtype)) / counts.clamp_min(1)
        hit = (counts > 0) & means.isfinite()
        averages.copy_(torch.where(hit, averages.lerp(means, 1 - self.memory), averages))
        return averages[part]


def _memory(nets: Nets, sample_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {"ratio": (BINS,)}


def density_ratio(logits: Tensor) -> Tensor:
    """p_real / p_generated [B] as the discriminator's logits [B] have it, without gradient, within 0.1 and 20."""
    return ratio_of(logits.detach())


def ratio_of(logits: Tensor) -> Tensor:
    """As `density_ratio`, with the gradient of the logits."""
    return logits.clamp(-10, 10).exp().clamp(0.1, 20)


def density_weight(logits: Tensor, divergence: Divergence, average: Tensor | float = 1.0) -> Tensor:
    """The weight h(r) [B] of each sample under a divergence, of mean 1, for r the density ratio over its `average`."""
    weight = h(density_ratio(logits) / average, divergence)
    return weight / weight.mean()


def h(r: Tensor, divergence: Divergence) -> Tensor:
    """r^2 f''(r) of each density ratio [B], up to a factor (f-distill, table 1)."""
    return {
        "reverse-kl": torch.ones_like(r),
        "forward-kl": r,
        "js": 1 - 1 / (1 + r),
        "hellinger": r.sqrt(),
        "jeffreys": 1 + r,
    }[divergence]
