"""Generators of several steps: each makes a clean sample, and the next begins from that with new noise on it.

The same levels are trained and sampled at (`Noise.step_levels`), with one level these are one-step generators.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from msd_ray.diffusion.denoiser import Denoiser, at_start, one_step
from msd_ray.diffusion.noise import Noise, per_sample


def few_steps(generator: Denoiser, z: Tensor, condition: Tensor, renoise: Tensor, levels: Sequence[float]) -> Tensor:
    """Samples in len(levels) steps at falling noise levels, from z ~ N(0, I) [B, ...] (the sampler of DMD2, arXiv
    2405.14867, section 4.4, which is that of consistency models, arXiv 2303.01469, algorithm 1).

    renoise: ~ N(0, I) [at least len(levels) - 1, B, ...], the noise that each step after the first begins with.
    """
    x = one_step(generator, z, condition, levels[0])
    for level, noise in zip(levels[1:], renoise, strict=False):
        x = generator(x + level * noise, x.new_full(x.shape[:1], level), condition)
    return x


def rolled_out(
    generator: Denoiser,
    z: Tensor,
    condition: Tensor,
    renoise: Tensor | None,
    levels: Sequence[float],
    batches: int = 1,
    start: Tensor | None = None,
    anchors: Tensor | None = None,
) -> Tensor:
    """What `few_steps` makes in its first steps, of each sample in another number of them, with the graph of the last
    step alone (backward simulation, DMD2, section 4.5). DMD2 draws the number; here every batch has its share of each,
    see `last_steps`. renoise: may be None where there is a single level. batches: that lie in z one after the other.
    start: clean samples [B, ...] that the first step begins from, with z as their noise; None for pure noise.
    anchors: levels [steps - 1, B] of each sample's further steps in place of those that all have in `levels`.
    """
    x = at_start(generator, z, condition, levels[0]) if start is None else start + levels[0] * z
    if len(levels) == 1:
        return generator(x, x.new_full(x.shape[:1], levels[0]), condition)
    assert renoise is not None
    last = last_steps(len(z) // batches, len(levels)) * batches
    sigma = x.new_tensor(levels)[:, None].expand(-1, len(x))
    if anchors is not None:
        sigma = torch.cat([sigma[:1], anchors.to(x.dtype)])
    with torch.no_grad():
        for step, (level, below) in enumerate(pairwise(sigma)):
            going = [sample for sample, end in enumerate(last) if end > step]
            x0 = generator(x[going], level[going], condition[going])
            x[going] = x0 + per_sample(below[going], x0) * renoise[step][going]
    return generator(x, sigma[last, range(len(x))], condition)


def random_anchors(noise: Noise, n: int, rng: torch.Generator) -> Tensor:
    """Levels of the further steps of n samples, [steps - 1, n], each sample's drawn from the grid between sigma_init
    and sigma_min, falling. Two of a sample may be the same."""
    grid = replace(noise, sigma_max=noise.sigma_init, steps=1).grid(device=rng.device)
    index = torch.randint(1, len(grid) - 1, (len(noise.step_levels) - 1, n), generator=rng, device=rng.device)
    return grid[index.sort(dim=0, descending=True).values]


def last_steps(n: int, steps: int) -> list[int]:
    """The step at which each of the n samples of a batch ends: each has an equal share, and none if n is below
    `steps`."""
    return [i * steps // n for i in range(n)]


def levels_of_fewer(levels: Sequence[float], steps: int) -> tuple[float, ...]:
    """The levels at which a generator of len(levels) steps is asked if it makes a sample in `steps` of them, at most
    all: evenly chosen, the first among them."""
    return tuple(levels[i * len(levels) // steps] for i in range(steps))
