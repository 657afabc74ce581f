"""The noise levels: Karras grids (EDM, arXiv 2206.00364, equation 5) or tables, and the noising of samples."""

from dataclasses import dataclass
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
    those of them from sigma_min to sigma_max, in place of the Karras grid.
    """

    sigma_min: Sigma = 0.002
    sigma_max: Sigma = 80.0
    rho: Annotated[float, within(ge=0.1, le=100)] = 7.0
    sigma_data: Sigma = 0.5
    sigma_init: Sigma = 80.0
    levels: Annotated[int, within(ge=2, le=10**6)] = 1000
    table: NoiseTable | None = None

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError("sigma_min must be above 0 and below sigma_max")
        if self.table and len(self._of(self.table)) < 2:
            raise ValueError("the table has fewer than two levels from sigma_min to sigma_max")

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
        own = table.sigmas.float()
        low, high = torch.tensor([self.sigma_min, self.sigma_max]).tolist()  # as they are in float32
        return own[(own >= low) & (own <= high)]

    def draw(self, n: int, first: int, last: int, rng: torch.Generator) -> Tensor:
        """[n] noise levels, their grid index uniform in first..last, both included."""
        index = torch.randint(first, last + 1, (n,), generator=rng, device=rng.device)
        return self.grid(device=rng.device)[index]


def per_sample(value: Tensor, like: Tensor) -> Tensor:
    """`value` [B] in the shape [B, 1, ...] that broadcasts against `like` [B, ...]."""
    return value.reshape(-1, *[1] * (like.ndim - 1))


def add_noise(x: Tensor, sigma: Tensor, rng: torch.Generator) -> Tensor:
    """x + sigma * n with n ~ N(0, I); x [B, ...], sigma [B]."""
    n = torch.randn(x.shape, generator=rng, device=rng.device, dtype=x.dtype)
    return x + per_sample(sigma, x) * n
