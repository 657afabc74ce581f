"""How students ask a teacher, whether it runs beside them or in a pool elsewhere."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from msd_ray.diffusion import Denoiser


class Answer(Protocol):
    """A teacher's answer on its way."""

    def result(self) -> Tensor:
        """x0 [B, ...]; waits for it. Where x_t requires a gradient, the result passes it on to x_t."""
        ...


class Teacher(Protocol):
    """A denoiser that is asked first and read later, so that its time can hide behind other work."""

    def submit(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Answer: ...


@dataclass(frozen=True)
class _Ready:
    x0: Tensor

    def result(self) -> Tensor:
        return self.x0


@dataclass(frozen=True)
class LocalTeacher:
    """A teacher in the student's own process; answers at once."""

    denoiser: Denoiser

    def submit(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Answer:
        return _Ready(self.denoiser(x_t, sigma, condition))
