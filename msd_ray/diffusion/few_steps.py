"""Generators of several steps: each makes a clean sample, and the next begins from that with new noise on it.

The same levels are trained and sampled at (`Noise.step_levels`), with one level these are one-step generators.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from msd_ray.diffusion.denoiser import Denoiser, at_start, one_step


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
) -> Tensor:
    """What `few_steps` makes in its first steps, of each sample in another number of them, with the graph of the last
    step alone (backward simulation, DMD2, section 4.5). DMD2 draws the number; here every batch has its share of each,
    see `last_steps`. renoise: may be None where there is a single level. batches: that lie in z one after the other.
    start: clean samples [B, ...] that the first step begins from, with z as their noise; None for pure noise.
    """
    x = at_start(generator, z, levels[0]) if start is None else start + levels[0] * z
    if len(levels) == 1:
        return generator(x, x.new_full(x.shape[:1], levels[0]), condition)
    assert renoise is not None
    last = last_steps(len(z) // batches, len(levels)) * batches
    with torch.no_grad():
        for step, (level, below) in enumerate(pairwise(levels)):
            going = [sample for sample, end in enumerate(last) if end > step]
            x0 = generator(x[going], x.new_full((len(going),), level), condition[going])
            x[going] = x0 + below * renoise[step][going]
    return generator(x, x.new_tensor([levels[step] for step in last]), condition)


def last_steps(n: int, steps: int) -> list[int]:
    """The step at which each of the n samples of a batch ends: each has an equal share, and none if n is below
    `steps`."""
    return [i * steps // n for i in range(n)]


def levels_of_fewer(levels: Sequence[float], steps: int) -> tuple[float, ...]:
    """The levels at which a generator of len(levels) steps is asked if it makes a sample in `steps` of them, at most
    all: evenly chosen, the first among them."""
    return tuple(levels[i * len(levels) // steps] for i in range(steps))
