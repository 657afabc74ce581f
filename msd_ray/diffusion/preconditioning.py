"""How a denoiser is made of a raw network: D(x_t; sigma) = c_skip x_t + c_out F(c_in x_t; c_noise) (EDM, arXiv
2206.00364, table 1).

A new one is a frozen dataclass of plain data with a `kind`, `coefficients` and `span`, named in `PRECONDITIONINGS`; its
fields are kept in the descriptions of students and teachers. Every prediction that is linear in x_t and F fits: of a
network that predicts epsilon, v or a flow, c_noise is its time step.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from msd_ray.diffusion.noise_table import NoiseTable, cosine_abar
from msd_ray.validation import made_of


class Coefficients(NamedTuple):
    """Each [B]; scale is 1 / c_in."""

    c_skip: Tensor
    c_out: Tensor
    scale: Tensor
    c_noise: Tensor


class Preconditioning(Protocol):
    @property
    def kind(self) -> str:
        """A field: its name in `PRECONDITIONINGS`."""
        ...

    @property
    def span(self) -> tuple[float, float]:
        """The lowest and the highest noise level that samplers may ask for."""
        ...

    def coefficients(self, sigma: Tensor, sigma_data: float, sigma_min: float = 0.0) -> Coefficients:
        """At the noise levels sigma [B], in their type and on their device. sigma_min: the level at which D is the
        identity, so c_skip 1 and c_out 0; 0 as in EDM, above it in consistency models (arXiv 2303.01469, app. C)."""
        ...


@dataclass(frozen=True)
class EDM:
    """EDM's own. noise_scale: of c_noise; OpenAI's networks take it 1000 times larger."""

    kind: Literal["edm"] = "edm"
    noise_scale: float = 1.0
    span: ClassVar = (0.0, math.inf)

    def coefficients(self, sigma: Tensor, sigma_data: float, sigma_min: float = 0.0) -> Coefficients:
        d, scale = sigma_data, (sigma**2 + sigma_data**2).sqrt()
        c_skip = d**2 / ((sigma - sigma_min) ** 2 + d**2)
        return Coefficients(c_skip, (sigma - sigma_min) * d / scale, scale, self.noise_scale * sigma.log() / 4)


@dataclass(frozen=True)
class VP:
    """Of networks trained on the variance preserving process in continuous time (arXiv 2011.13456)."""

    kind: Literal["vp"] = "vp"
    beta_d: float = 19.9
    beta_min: float = 0.1
    span: ClassVar = (0.00098, 152.2)

    def coefficients(self, sigma: Tensor, sigma_data: float, sigma_min: float = 0.0) -> Coefficients:
        growth = self.beta_min**2 + 2 * self.beta_d * (1 + sigma**2).log()
        t = (growth.sqrt() - self.beta_min) / self.beta_d
        return Coefficients(torch.ones_like(sigma), sigma_min - sigma, (sigma**2 + 1).sqrt(), 999 * t)


@dataclass(frozen=True)
class VE:
    """Of networks trained on the variance exploding process (arXiv 2011.13456)."""

    kind: Literal["ve"] = "ve"
    span: ClassVar = (0.02, 100.0)

    def coefficients(self, sigma: Tensor, sigma_data: float, sigma_min: float = 0.0) -> Coefficients:
        one = torch.ones_like(sigma)
        return Coefficients(one, sigma - sigma_min, one, (sigma / 2).log())


@dataclass(frozen=True)
class IDDPM:
    """Of networks trained on the cosine schedule of 1000 steps to predict epsilon (arXiv 2102.09672): iDDPM and ADM.
    c_noise is the step whose noise level is nearest."""

    kind: Literal["iddpm"] = "iddpm"
    span: ClassVar = (0.0064, 20291.0)

    def coefficients(self, sigma: Tensor, sigma_data: float, sigma_min: float = 0.0) -> Coefficients:
        table = cosine_levels().to(sigma.device)
        step = (table - sigma.double()[:, None]).abs().argmin(dim=1).to(sigma.dtype)
        return Coefficients(torch.ones_like(sigma), sigma_min - sigma, (sigma**2 + 1).sqrt(), step)


@lru_cache(maxsize=1)
def cosine_levels() -> Tensor:
    """The noise levels of iDDPM's 1000 steps, rising, in float64: sqrt((1 - abar) / abar), where abar falls by a factor
    of 1000 at most in a step (EDM, table 1: C_1 = 0.001, C_2 = 0.008)."""
    with torch.device("cpu"):
        abar = cosine_abar(1000)
        levels: Tensor = ((1 - abar) / abar).sqrt()
    return levels


@dataclass(frozen=True)
class Stepped:
    """Of networks trained at the steps of a table. prediction: what they give, one of `_PREDICTIONS`. Their x is that
    of their table, so what one-step generators start from is noise of unit variance there, see `start`."""

    kind: Literal["stepped"] = "stepped"
    prediction: Literal["epsilon", "v_prediction", "sample", "flow"] = "epsilon"
    table: NoiseTable = NoiseTable()

    def __post_init__(self) -> None:
        flows = self.table.schedule == "flow"
        if self.prediction == ("v_prediction" if flows else "flow"):
            raise ValueError(f"{self.prediction} is not defined on the schedule {self.table.schedule}")

    @property
    def span(self) -> tuple[float, float]:
        sigmas = self.table.sigmas
        return float(sigmas[0]), float(sigmas[-1])

    def coefficients(self, sigma: Tensor, sigma_data: float, sigma_min: float = 0.0) -> Coefficients:
        c_skip, c_out = _PREDICTIONS[self.prediction](sigma, sigma_min)
        return Coefficients(c_skip, c_out, self.table.scale(sigma), self.table.step_of(sigma))


def _of_epsilon(sigma: Tensor, sigma_min: float) -> tuple[Tensor, Tensor]:
    """D = x_t - sigma eps."""
    return torch.ones_like(sigma), sigma_min - sigma


def _of_v(sigma: Tensor, sigma_min: float) -> tuple[Tensor, Tensor]:
    """D = a x - b v, with a = 1 / sqrt(1 + sigma^2), b = sigma a and the network's x = a x_t (arXiv 2202.00512)."""
    lifted = sigma - sigma_min
    return 1 / (1 + lifted**2), -lifted / (1 + sigma**2).sqrt()


def _of_sample(sigma: Tensor, sigma_min: float) -> tuple[Tensor, Tensor]:
    """D is the network itself."""
    return sigma_min / sigma, 1 - sigma_min / sigma


def _of_flow(sigma: Tensor, sigma_min: float) -> tuple[Tensor, Tensor]:
    """D = x - u v, with v = n - x0, u = sigma / (1 + sigma) and the network's x = x_t / (1 + sigma)."""
    lifted = sigma - sigma_min
    return 1 / (1 + lifted), -lifted / (1 + sigma)


_PREDICTIONS: dict[str, Callable[[Tensor, float], tuple[Tensor, Tensor]]] = {
    "epsilon": _of_epsilon,
    "v_prediction": _of_v,
    "sample": _of_sample,
    "flow": _of_flow,
}
"""c_skip and c_out, each [B], of sigma [B] and sigma_min."""


@dataclass(frozen=True)
class Masked:
    """Of networks that give the logits of masked tokens (`diffusion.tokens`). The noise level is the share of masks."""

    kind: Literal["masked"] = "masked"
    span: ClassVar = (0.0, 1.0)

    def coefficients(self, sigma: Tensor, sigma_data: float, sigma_min: float = 0.0) -> Coefficients:
        one = torch.ones_like(sigma)
        return Coefficients(torch.zeros_like(sigma), one, one, sigma)


def start(how: Preconditioning, sigma: float) -> float:
    """The standard deviation of x_t that stands for pure noise at the level sigma."""
    return how.table.scale(sigma) if isinstance(how, Stepped) else sigma


PRECONDITIONINGS: dict[str, type[Any]] = {
    "edm": EDM,
    "vp": VP,
    "ve": VE,
    "iddpm": IDDPM,
    "stepped": Stepped,
    "masked": Masked,
}


def preconditioning_of(raw: Mapping[str, Any]) -> Preconditioning:
    """The one that plain data describe. Raises ValueError where there is none such."""
    kind = raw["kind"]
    if kind not in PRECONDITIONINGS:
        raise ValueError(f"there is no preconditioning {kind!r}, only {', '.join(PRECONDITIONINGS)}")
    made: Preconditioning = made_of(PRECONDITIONINGS[kind], raw)
    return made
