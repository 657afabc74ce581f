"""The noise levels: Karras grids (EDM, arXiv 2206.00364, equation 5) or tables, and the noising of samples."""

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor

from msd_ray.diffusion.noise_table import NoiseTable
from msd_ray.ranges import Sigma, within


@dataclass(frozen=True)
class Noise:
    """The noise schedule that teacher, students and samplers of one run share.

    sigma_min, sigma_max, rho: the Karras grid. sigma_data: standard deviation of the data, in the units of the
    samples. sigma_init: noise level at which one-step generators start (DMD2: 80, SiD: 2.5). levels: length of the
    training grid from which objectives draw (DMD2: 1000). table: the levels of a network that was trained at steps,
    those of them from sigma_min to sigma_max, in place of the Karras grid. steps: in which generators make a sample; or
    the levels, falling, at which those after the first begin.
    """

    sigma_min: Sigma = 0.002
    sigma_max: Sigma = 80.0
    rho: Annotated[float, within(ge=0.1, le=100)] = 7.0
    sigma_data: Sigma = 0.5
    sigma_init: Sigma = 80.0
    levels: Annotated[int, within(ge=2, le=10**6)] = 1000
    table: NoiseTable | None = None
    steps: Annotated[int, within(ge=1, le=64)] | tuple[Sigma, ...] = 1

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError("sigma_min must be above 0 and below sigma_max")
        if self.table and len(self._of(self.table)) < 2:
            raise ValueError("the table has fewer than two levels from sigma_min to sigma_max")
        if self.steps != 1:
            self._check_steps()

    @property
    def step_levels(self) -> tuple[float, ...]:
        """The noise levels of a generator's steps, in training and in sampling, from sigma_init down. Where `steps` is
        a number, they divide the grid from sigma_init to sigma_min into as many equal parts."""
        if isinstance(self.steps, tuple):
            return (self.sigma_init, *self.steps)
        if self.steps == 1:
            return (self.sigma_init,)
        return (self.sigma_init, *_further_levels(self, self.steps))

    def _check_steps(self) -> None:
        if self.sigma_init <= self.sigma_min:
            raise ValueError("steps: there is no level between sigma_init and sigma_min for a second step")
        levels = self.step_levels
        if not all(above > below for above, below in pairwise((*levels, self.sigma_min))):
            raise ValueError(
                f"steps: the levels must fall from sigma_init and stay above sigma_min ({self.sigma_min:g}), which "
                f"{', '.join(f'{level:g}' for level in levels)} do not; take fewer steps or other levels"
            )

    def grid(self, n: int | None = None, device: torch.device | None = None) -> Tensor:
        """[n] noise levels from sigma_min up to sigma_max, evenly spaced in sigma^(1/rho) or among the steps of the
        table; n is `levels` by default."""
        if self.table:
            own = self._of(self.table)
            chosen = torch.linspace(0, len(own) - 1, n or self.levels, dtype=torch.float64).round().long()
            return own[chosen].to(device)
        t = torch.linspace(0, 1, n or self.levels, dtype=torch.float64, device=device)
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        sigma: Tensor = (low + t * (high - low)) ** self.rho
        return sigma.float()

    def _of(self, table: NoiseTable) -> Tensor:
        """The levels of the table between the ends."""
        return table.between(self.sigma_min, self.sigma_max)

    def draw(self, n: int, first: int, last: int, rng: torch.Generator) -> Tensor:
        """[n] noise levels, their grid index uniform in first..last, both included."""
        index = torch.randint(first, last + 1, (n,), generator=rng, device=rng.device)
        return self.grid(device=rng.device)[index]


@lru_cache(maxsize=64)
def _further_levels(noise: Noise, steps: int) -> tuple[float, ...]:
    """Of the steps after the first. Kept, since tensors may have no data where they are asked for again."""
    if noise.table:
        grid = replace(noise, sigma_max=noise.sigma_init, steps=1).grid(steps + 1)
        return tuple(grid[1:-1].flip(0).tolist())
    low, high = noise.sigma_min ** (1 / noise.rho), noise.sigma_init ** (1 / noise.rho)
    return tuple((high + i / steps * (low - high)) ** noise.rho for i in range(1, steps))


def per_sample(value: Tensor, like: Tensor) -> Tensor:
    """`value` [B] in the shape [B, 1, ...] that broadcasts against `like` [B, ...]."""
    return value.reshape(-1, *[1] * (like.ndim - 1))


def add_noise(x: Tensor, sigma: Tensor, rng: torch.Generator) -> Tensor:
    """x + sigma * n with n ~ N(0, I); x [B, ...], sigma [B]."""
    n = torch.randn(x.shape, generator=rng, device=rng.device, dtype=x.dtype)
    return x + per_sample(sigma, x) * n
