"""Classifier-free guidance (arXiv 2207.12598). It is the teacher's alone: students learn what it leads to."""

from dataclasses import dataclass

from torch import Tensor

from msd_ray.diffusion.denoiser import Denoiser, EDMDenoiser


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


def unguided(denoiser: Denoiser | None) -> EDMDenoiser | None:
    """The denoiser of ours that this one is, or asks where it is guided; None where it is neither."""
    own = denoiser.denoiser if isinstance(denoiser, Guided) else denoiser
    return own if isinstance(own, EDMDenoiser) else None
