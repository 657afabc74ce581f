"""Classifier-free guidance (arXiv 2207.12598). It is the teacher's alone: students learn what it leads to."""

from dataclasses import dataclass

from torch import Tensor

from msd_ray.diffusion.denoiser import Denoiser


@dataclass(frozen=True)
class Guided:
    """D_u + guidance (D_c - D_u), of two evaluations of the denoiser: of a condition, and of none. unconditional: what
    it is given for none, as a condition without its batch."""

    denoiser: Denoiser
    unconditional: Tensor
    guidance: float

    def __call__(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        none = self.unconditional.expand_as(condition)
        away = self.denoiser(x_t, sigma, none)
        return away + self.guidance * (self.denoiser(x_t, sigma, condition) - away)


def unguided(denoiser: Denoiser) -> Denoiser:
    """The denoiser that a guided one asks; any other is its own."""
    return denoiser.denoiser if isinstance(denoiser, Guided) else denoiser
