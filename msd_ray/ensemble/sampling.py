"""How the students of an ensemble make a sample: in one step, in a few with new noise in between, or by a sampler."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, cast

from torch import Tensor

from msd_ray.conditions import Partition
from msd_ray.diffusion import (
    Churn,
    Denoiser,
    EDMDenoiser,
    Noise,
    ddim,
    few_steps,
    heun,
    levels_of_fewer,
    nfe_of_heun,
    one_step,
    stochastic,
    unmask,
)
from msd_ray.errors import CorruptError, UserError
from msd_ray.networks.embedding import told
from msd_ray.ranges import Sigma, Weight
from msd_ray.validation import made_of

SAMPLERS: dict[str, Callable[[Denoiser, Tensor, Tensor, Noise, int], Tensor]] = {"heun": heun, "ddim": ddim}
Fresh = Callable[[int], Tensor]
UNMASK = "unmask"
FEWEST, MOST = 5, 35
MOST_GUIDANCE = 1000.0
OPTIONAL = ("churn", "levels", "guidance")
"""What manifests leave out where there is none."""


@dataclass(frozen=True)
class Sampling:
    """kind: "one_step", "few_steps", which of `SAMPLERS`, or "unmask" of a teacher of tokens. steps, noise: of the
    sampler; a single step needs neither. churn: of a teacher that is sampled with new noise on the way. levels: noise
    levels of the steps that students of a few steps were trained for, which are asked in `steps` of them. guidance:
    which students that learnt several are told; None where they are told none."""

    kind: str = "one_step"
    steps: int = 1
    noise: Noise = Noise()
    churn: Churn | None = None
    levels: tuple[Sigma, ...] = ()
    guidance: Weight | None = None

    @classmethod
    def of_generators(cls, noise: Noise) -> "Sampling":
        """That of generators trained with this noise."""
        levels = noise.step_levels
        return ONE_STEP if len(levels) == 1 else cls("few_steps", len(levels), levels=levels)

    @property
    def nfe(self) -> int:
        """Network evaluations per sample."""
        return nfe_of_heun(self.steps) if self.kind == "heun" else self.steps

    @property
    def draws(self) -> int:
        """Noises that a sample is made of: one for each step where every step takes a new one."""
        return self.steps if self.kind == "few_steps" else 1

    def integrate(self, denoiser: Denoiser, z: Tensor, condition: Tensor, fresh: Fresh | None = None) -> Tensor:
        """The sampler's samples from z ~ N(0, I) [B, ...]. fresh: noise as z for each step, where there is churn
        or tokens are drawn."""
        if self.kind == UNMASK and fresh:
            return unmask(denoiser, z, condition, self.steps, fresh)
        if self.churn and fresh:
            return stochastic(denoiser, z, condition, self.noise, self.steps, self.churn, fresh)
        return SAMPLERS[self.kind](denoiser, z, condition, self.noise, self.steps)

    def changed(
        self, kind: str | None, steps: int | None, partition: Partition | None = None, guidance: float | None = None
    ) -> "Sampling":
        """The same with another sampler, number of steps or guidance; None keeps it. partition: of the students. Raises
        UserError if that is not possible."""
        if guidance is not None:
            return self._guided(guidance).changed(kind, steps, partition)
        if kind is None and steps is None:
            return self
        if self == ONE_STEP and (kind, steps) == (None, 1):
            return self
        if self == ONE_STEP:
            raise UserError("these students make a sample in a single step: there is no sampler or steps to choose")
        if self.levels and kind is not None:
            raise UserError("these students make a sample in steps of their own: there is no sampler to choose")
        other = replace(self, kind=kind or self.kind, steps=self.steps if steps is None else steps)
        problem = other.problem(partition)
        if problem:
            raise UserError(problem)
        return other

    def _guided(self, guidance: float) -> "Sampling":
        if self.guidance is None:
            raise UserError("these students learnt their teacher's guidance: there is none to choose")
        if not 0 <= guidance <= MOST_GUIDANCE:
            raise UserError(f"guidance must be from 0 to {MOST_GUIDANCE:g}, not {guidance:g}")
        return replace(self, guidance=float(guidance))

    def problem(self, partition: Partition | None = None) -> str | None:
        """Why no ensemble, or none of this partition, can sample like this, in one line; None if it can."""
        if self == ONE_STEP:
            return None
        if self.kind == "few_steps" or self.levels:
            return self._problem_of_few() or (self._problem_of_phases(partition) if partition else None)
        if self.kind not in SAMPLERS:
            return f"there is no sampler {self.kind!r}, only {' and '.join(SAMPLERS)}"
        if not FEWEST <= self.nfe <= MOST:
            fewest, most = ((FEWEST + 1) // 2, (MOST + 1) // 2) if self.kind == "heun" else (FEWEST, MOST)
            return f"{self.kind} takes {fewest} to {most} steps ({FEWEST} to {MOST} evaluations), not {self.steps}"
        return None

    def _problem_of_few(self) -> str | None:
        ends, most = (*self.levels, 0.0), len(self.levels)
        if self.kind != "few_steps" or most < 2 or not all(high > low for high, low in pairwise(ends)):
            return "the noise levels of a few steps must be at least two, and fall"
        if not 1 <= self.steps <= most:
            return f"these students were trained for {most} steps: take 1 to {most}, not {self.steps}"
        return None

    def _problem_of_phases(self, partition: Partition) -> str | None:
        asked = levels_of_fewer(self.levels, self.steps)
        if all(partition.steps_of(student, asked) for student in partition.students_of(0)):
            return None
        return f"these students divide the steps among {partition.intervals}: in {self.steps} some would not be asked"

    def to_json(self) -> dict[str, Any]:
        if self == ONE_STEP:
            return {"kind": self.kind}
        if self.kind == "few_steps":
            return {"kind": self.kind, "steps": self.steps, "levels": list(self.levels)}
        return {name: value for name, value in asdict(self).items() if name not in OPTIONAL or value not in (None, ())}

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
    noises: Tensor,
    condition: Tensor,
) -> Tensor:
    """What the students of one part, lowest noise levels first, make of the noises ~ N(0, I) [sampling.draws, B, ...].
    sigma_init: level that a single step starts from."""
    if sampling.levels:
        levels = levels_of_fewer(sampling.levels, sampling.steps)
        return few_steps(Relay(partition, students), noises[0], condition, noises[1:], levels)
    if sampling == ONE_STEP:
        (alone,) = students
        return one_step(alone, noises[0], condition, sigma_init)
    if sampling.guidance is not None:
        weight = noises.new_full(condition.shape[:1], sampling.guidance)
        condition = told(condition, weight, cast(EDMDenoiser, students[0]).classes)
    return sampling.integrate(Relay(partition, students), noises[0], condition)


class Relay:
    """The students of one part of the conditions as one denoiser: each answers at its own noise levels.

    All samples of a batch must be at one level, as they are in the samplers.
    """

    def __init__(self, partition: Partition, students: Sequence[Denoiser]) -> None:
        """students: those of the part, lowest levels first."""
        self._partition, self._students = partition, students
        self.preconditioning = getattr(students[-1], "preconditioning", None)  # of the one that begins
        self.origin = getattr(students[-1], "origin", None)

    def __call__(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        interval = int(self._partition.interval_at(sigma[:1])) if self._partition.borders else 0
        return self._students[interval](x_t, sigma, condition)
