"""How the students of an ensemble make a sample: in one step, or at one noise level after the other."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from msd_ray.conditions import Partition
from msd_ray.diffusion import Churn, Denoiser, Noise, ddim, heun, nfe_of_heun, one_step, stochastic
from msd_ray.errors import CorruptError, UserError
from msd_ray.validation import made_of

SAMPLERS: dict[str, Callable[[Denoiser, Tensor, Tensor, Noise, int], Tensor]] = {"heun": heun, "ddim": ddim}
Fresh = Callable[[int], Tensor]
FEWEST, MOST = 5, 35


@dataclass(frozen=True)
class Sampling:
    """kind: "one_step", or which of `SAMPLERS`. steps, noise: of the sampler; a single step needs neither. churn: of a
    teacher that is sampled with new noise on the way."""

    kind: str = "one_step"
    steps: int = 1
    noise: Noise = Noise()
    churn: Churn | None = None

    @property
    def nfe(self) -> int:
        """Network evaluations per sample."""
        return nfe_of_heun(self.steps) if self.kind == "heun" else self.steps

    def integrate(self, denoiser: Denoiser, z: Tensor, condition: Tensor, fresh: Fresh | None = None) -> Tensor:
        """The sampler's samples from z ~ N(0, I) [B, ...]. fresh: noise as z for each step, where there is churn."""
        if self.churn and fresh:
            return stochastic(denoiser, z, condition, self.noise, self.steps, self.churn, fresh)
        return SAMPLERS[self.kind](denoiser, z, condition, self.noise, self.steps)

    def changed(self, kind: str | None, steps: int | None) -> "Sampling":
        """The same with another sampler or number of steps; None keeps it. Raises UserError if that is not possible."""
        if kind is None and steps is None:
            return self
        if self == ONE_STEP:
            raise UserError("these students make a sample in a single step: there is no sampler or steps to choose")
        other = replace(self, kind=kind or self.kind, steps=self.steps if steps is None else steps)
        problem = other.problem()
        if problem:
            raise UserError(problem)
        return other

    def problem(self) -> str | None:
        """Why no ensemble can sample like this, in one line; None if it can."""
        if self == ONE_STEP:
            return None
        if self.kind not in SAMPLERS:
            return f"there is no sampler {self.kind!r}, only {' and '.join(SAMPLERS)}"
        if not FEWEST <= self.nfe <= MOST:
            fewest, most = ((FEWEST + 1) // 2, (MOST + 1) // 2) if self.kind == "heun" else (FEWEST, MOST)
            return f"{self.kind} takes {fewest} to {most} steps ({FEWEST} to {MOST} evaluations), not {self.steps}"
        return None

    def to_json(self) -> dict[str, Any]:
        if self == ONE_STEP:
            return {"kind": self.kind}
        return {name: value for name, value in asdict(self).items() if name != "churn" or value}

    @classmethod
    def from_json(cls, raw: Any) -> "Sampling":
        """The inverse of `to_json`; raises CorruptError for anything else."""
        if raw == {"kind": "one_step"}:
            return ONE_STEP
        try:
            return made_of(cls, raw)
        except ValueError as error:
            raise CorruptError(f"not a way of sampling: {error}") from error


ONE_STEP = Sampling()


def sampled(
    partition: Partition,
    students: Sequence[Denoiser],
    sigma_init: float,
    sampling: Sampling,
    z: Tensor,
    condition: Tensor,
) -> Tensor:
    """What the students of one part, lowest noise levels first, make of the noise z ~ N(0, I) [B, ...]. sigma_init:
    level that a single step starts from."""
    if sampling == ONE_STEP:
        (alone,) = students
        return one_step(alone, z, condition, sigma_init)
    return sampling.integrate(Relay(partition, students), z, condition)


class Relay:
    """The students of one part of the conditions as one denoiser: each answers at its own noise levels.

    All samples of a batch must be at one level, as they are in the samplers.
    """

    def __init__(self, partition: Partition, students: Sequence[Denoiser]) -> None:
        """students: those of the part, lowest levels first."""
        self._partition, self._students = partition, students

    def __call__(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        interval = int(self._partition.interval_at(sigma[:1]))
        return self._students[interval](x_t, sigma, condition)
