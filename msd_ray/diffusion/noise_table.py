"""The noise levels of networks that were trained at numbered steps, as those of diffusers are."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msd_ray.ranges import within

Beta = Annotated[float, within(gt=0, lt=1)]
_Level = TypeVar("_Level", float, Tensor)


@dataclass(frozen=True)
class NoiseTable:
    """schedule: how the levels follow from the step. `linear`, `scaled_linear` and `squaredcos_cap_v2` are variance
    preserving (x = sqrt(abar) x0 + sqrt(1 - abar) n, the names are those of diffusers), `flow` is x = (1 - u) x0 + u n.

    steps: of the training. beta_start, beta_end: of the first two schedules. shift: of the flow's u (arXiv 2403.03206,
    equation 23). zero_terminal_snr: whether the last step is pure noise (arXiv 2305.08891); as it has no finite sigma,
    the table ends before it, as that of a flow does.
    """

    schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "flow"] = "linear"
    steps: Annotated[int, within(ge=3, le=10**5)] = 1000
    beta_start: Beta = 0.0001
    beta_end: Beta = 0.02
    shift: Annotated[float, within(ge=0.01, le=100)] = 1.0
    zero_terminal_snr: bool = False

    @property
    def sigmas(self) -> Tensor:
        """The levels, rising, in float64 on the CPU. Made anew, since tensors made while a plan is counted have no
        data."""
        return torch.tensor(_sigmas(self), device="cpu")

    def between(self, low: float, high: float) -> Tensor:
        """The levels from low to high, both included where they are levels in float32, in which they are given."""
        own = _sigmas(self).astype(np.float32)
        return torch.tensor(own[(own >= np.float32(low)) & (own <= np.float32(high))], device="cpu")

    def step_of(self, sigma: Tensor) -> Tensor:
        """What networks are given for the levels sigma [B], in their type: a level's number, between two the value that
        is linear in log sigma, the first and the last outside; 1000 u for a flow of 1000 steps."""
        if self.schedule == "flow":
            return self.steps * sigma / (1 + sigma)
        known, asked = self.sigmas.log().to(sigma.device), sigma.double().log()
        above = torch.searchsorted(known, asked).clamp(1, len(known) - 1)
        low, high = known[above - 1], known[above]
        step: Tensor = (above - 1 + (asked - low) / (high - low)).clamp(0, len(known) - 1)
        return step.to(sigma.dtype)

    def scale(self, sigma: _Level) -> _Level:
        """What a network's x is to be multiplied by so that it is x0 + sigma n; sigma [B], or a number."""
        scale: _Level = 1 + sigma if self.schedule == "flow" else (1 + sigma**2) ** 0.5
        return scale


@lru_cache(maxsize=64)
def _sigmas(table: NoiseTable) -> NDArray[np.float64]:
    with torch.device("cpu"):
        if table.schedule == "flow":
            u = torch.arange(1, table.steps, dtype=torch.float64) / table.steps
            u = table.shift * u / (1 + (table.shift - 1) * u)
            return (u / (1 - u)).numpy()
        abar = _abar(table)
        if table.zero_terminal_snr:
            root = abar.sqrt()
            abar = ((root - root[-1]) * root[0] / (root[0] - root[-1]))[:-1] ** 2
        return ((1 - abar) / abar).sqrt().numpy()


def _abar(table: NoiseTable) -> Tensor:
    """The share of the variance that is the sample's, at each step."""
    if table.schedule == "squaredcos_cap_v2":
        return cosine_abar(table.steps)
    power = 2 if table.schedule == "scaled_linear" else 1
    first, last = table.beta_start ** (1 / power), table.beta_end ** (1 / power)
    return (1 - torch.linspace(first, last, table.steps, dtype=torch.float64) ** power).cumprod(dim=0)


def cosine_abar(steps: int) -> Tensor:
    """Of the cosine schedule (arXiv 2102.09672, equation 17), where it falls by a factor of 1000 at most in a step."""
    angles = math.pi / 2 * torch.arange(steps, -1, -1, dtype=torch.float64) / steps / 1.008
    remaining = angles.sin() ** 2
    return (remaining[1:] / remaining[:-1]).clamp(min=0.001).cumprod(dim=0)
