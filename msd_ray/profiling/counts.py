"""What a plan takes of operations and memory, counted without data: no weights are allocated, no update is tried."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from msd_ray.data import in_memory
from msd_ray.diffusion import EDMDenoiser, one_step
from msd_ray.errors import MsdRayError
from msd_ray.objectives import Pairs
from msd_ray.profiling.clocks import ClockedTeacher
from msd_ray.profiling.rates import Rates
from msd_ray.profiling.steady_peak import SteadyPeak
from msd_ray.profiling.tally import Tally, without_data
from msd_ray.profiling.timing import StageTiming
from msd_ray.runs.plan import Plan
from msd_ray.teachers import LocalTeacher
from msd_ray.training.student_spec import Extras, StudentSpec
from msd_ray.training.student_trainer import StudentTrainer
from msd_ray.training.teacher_trainer import TeacherTrainer


class UncountableError(MsdRayError):
    """An objective does what only data allow, such as to pick some samples by their values."""


@dataclass(frozen=True)
class StageCount:
    """flops: floating-point operations per image, the fake score's and the teacher's included. timing: seconds at the
    rates that were given."""

    flops: float
    timing: StageTiming


@dataclass(frozen=True)
class StudentCount:
    """stages: by name. memory: bytes on the device at the most, of weights, gradients, optimizers, averages and what
    the backward pass needs. state: bytes of the largest checkpoint, and of its copy in the host's memory while it is
    written. probe: seconds to make the samples of an FID probe."""

    stages: dict[str, StageCount]
    memory: int
    state: int
    probe: float


@dataclass(frozen=True)
class TeacherCount:
    """Of the teacher's own training: seconds per image, bytes at the most, bytes of a checkpoint. answer: seconds per
    image of one evaluation. replica: bytes that one which answers students holds at the most."""

    seconds: float
    memory: int
    state: int
    answer: float
    replica: int


def count_student(plan: Plan, spec: StudentSpec, rates: Rates) -> StudentCount:
    """Lets it make one update of each stage, one stage after the other. Raises UncountableError where it cannot."""
    tally = Tally()
    with without_data(tally):
        return _Student(plan, spec, rates, tally).count()


def count_teacher(plan: Plan, rates: Rates) -> TeacherCount:
    """Lets it make two updates, since the first begins without the averages of its optimizer."""
    recipe, tally = plan.recipe, Tally()
    config = replace(recipe.teacher, images=2 * recipe.teacher.batch)
    with without_data(tally):
        blank = torch.zeros(config.batch, *plan.teacher.sample_shape)
        data = in_memory(blank, torch.zeros(config.batch, dtype=torch.long))
        trainer = TeacherTrainer(config, plan.teacher, recipe.noise, data)
        trainer.advance(config.images)
        seconds, state = rates.seconds(tally) / config.images, trainer.state_dict().bytes
    answer, replica = _answer(plan, rates)
    return TeacherCount(seconds, tally.peak, state, answer, replica)


def _answer(plan: Plan, rates: Rates) -> tuple[float, int]:
    """Seconds per image, and the most bytes, of answers as students want them."""
    stages, tally = plan.jobs[0].spec.stages, Tally()
    n = max(stage.batch for stage in stages.values()) // plan.jobs[0].spec.shards
    gradient = any(plan.jobs[0].spec.objective(name).needs.teacher == "gradient" for name in stages)
    with without_data(tally):
        teacher = plan.teacher.build(plan.recipe.training.precision).eval().requires_grad_(False)
        x, sigma = torch.zeros(n, *plan.teacher.sample_shape), torch.ones(n)
        with torch.set_grad_enabled(gradient):
            x0 = teacher(x.requires_grad_(gradient), sigma, torch.zeros(n, dtype=torch.long))
        seconds = rates.seconds(tally) / n
        if gradient:
            torch.autograd.grad(x0, x, x0)
    return seconds, tally.peak


class _Student:
    """One student of a plan without data. The tally is running."""

    def __init__(self, plan: Plan, spec: StudentSpec, rates: Rates, tally: Tally) -> None:
        self._plan, self._spec, self._rates, self._tally = plan, spec, rates, tally
        self._local = plan.cluster.teacher == "local"
        self._elsewhere = ClockedTeacher(self._teacher(), lambda: rates.seconds(tally), tally.aside)

    def count(self) -> StudentCount:
        stages, held, states = {}, [], []
        for name in self._spec.stages:
            with SteadyPeak(self._tally) as peak:
                stages[name] = self._stage(name)
            held.append(peak.bytes())
            states.append(self._trainer.state_dict().bytes)
        return StudentCount(stages, max(held), max(states), self._probe())

    @cached_property
    def _trainer(self) -> StudentTrainer:
        spec = self._spec
        one_each = {name: replace(s, images=s.batch, fake_first=0) for name, s in spec.stages.items()}
        blank = torch.zeros(1, *spec.denoiser.sample_shape)
        real = in_memory(blank, torch.full((1,), spec.conditions[0]))
        pairs = Pairs(blank, blank, torch.zeros(1, dtype=torch.long))
        inside = self._local or any(spec.objective(name).needs.encoder for name in spec.stages)
        encoder = self._teacher(held=inside)
        teacher = LocalTeacher(encoder) if self._local else self._elsewhere
        return StudentTrainer(
            replace(spec, stages=one_each), teacher, None, real, "cpu", Extras(encoder=encoder, pairs=pairs)
        )

    def _teacher(self, held: bool = False) -> EDMDenoiser:
        """held: whether it lies in the student's memory."""
        build = self._plan.teacher.build
        if held:
            return build(self._plan.recipe.training.precision).eval().requires_grad_(False)
        with self._tally.aside():
            return build(self._plan.recipe.training.precision).eval().requires_grad_(False)

    def _stage(self, name: str) -> StageCount:
        trainer, batch = self._trainer, self._spec.stages[name].batch
        self._elsewhere.reset()
        flops, seconds = self._tally.flops, self._rates.seconds(self._tally)
        try:
            trainer.advance(batch)
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise UncountableError(f"stage {name} cannot be counted without data: {reason}") from error
        flops, seconds = self._tally.flops - flops, self._rates.seconds(self._tally) - seconds
        asked, waits = self._elsewhere.seconds, self._elsewhere.waits
        return StageCount(flops / batch, StageTiming((seconds - asked) / batch, asked / batch, waits / batch))

    def _probe(self) -> float:
        n, spec = self._plan.recipe.evaluation.curve_samples, self._spec
        before = self._rates.seconds(self._tally)
        with torch.no_grad():
            z = torch.zeros(n, *spec.denoiser.sample_shape)
            one_step(self._trainer.ema, z, torch.zeros(n, dtype=torch.long), spec.noise.sigma_init)
        return self._rates.seconds(self._tally) - before
