"""The best predictions that there are for data N(mean, S^2), derived from each process itself."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from msd_ray.diffusion import Network, NoiseTable

S, STEPS = 0.7, 40
VP = {
    "linear": NoiseTable("linear", STEPS, 0.002, 0.2),
    "scaled_linear": NoiseTable("scaled_linear", STEPS, 0.00085, 0.12),
    "squaredcos_cap_v2": NoiseTable("squaredcos_cap_v2", STEPS),
}
FLOWS = {1.0: NoiseTable("flow", STEPS), 3.0: NoiseTable("flow", STEPS, shift=3.0)}
CASES = [*((p, t) for p in ("epsilon", "v_prediction", "sample") for t in VP.values())]
CASES += [(p, t) for p in ("epsilon", "sample", "flow") for t in FLOWS.values()]


def shares(table: NoiseTable, step: Tensor) -> tuple[Tensor, Tensor]:
    """a and b of x = a x0 + b n at these steps, from the definition of the process."""
    if table.schedule == "flow":
        u = step / table.steps
        return 1 - u, u
    t = np.arange(table.steps + 1) / table.steps
    if table.schedule == "squaredcos_cap_v2":
        share = np.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = np.minimum(1 - share[1:] / share[:-1], 0.999)
    elif table.schedule == "linear":
        betas = np.linspace(table.beta_start, table.beta_end, table.steps)
    else:
        betas = np.linspace(table.beta_start**0.5, table.beta_end**0.5, table.steps) ** 2
    abar = torch.from_numpy(np.cumprod(1 - betas))[step.round().long()]
    return abar.sqrt(), (1 - abar).sqrt()


class Known(Network):
    """Predicts as well as can be what there is to predict for N(mean, S^2), if `mean` is that of the data."""

    def __init__(self, prediction: str, table: NoiseTable, dimensions: int) -> None:
        super().__init__()
        self.prediction, self.table, self.feature_shapes = prediction, table, [(dimensions,)]
        self.mean = nn.Parameter(torch.zeros(dimensions))

    def forward(self, x: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        a, b = (value[:, None].to(x.dtype) for value in shares(self.table, step))
        x0 = self.mean + a * S**2 * (x - a * self.mean) / (a**2 * S**2 + b**2)
        n = (x - a * x0) / b
        known: dict[str, Tensor] = {"epsilon": n, "v_prediction": a * n - b * x0, "sample": x0, "flow": n - x0}
        return known[self.prediction]
