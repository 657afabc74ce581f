"""What a plan takes of operations and memory, counted without data: no weights are allocated, no update is tried."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from msd_ray.conditions import conditioned
from msd_ray.data import in_memory
from msd_ray.diffusion import Denoiser, Guided, few_steps, unguided
from msd_ray.errors import MsdRayError
from msd_ray.objectives import Pairs
from msd_ray.profiling.blank_conditions import without_texts
from msd_ray.profiling.clocks import ClockedTeacher
from msd_ray.profiling.rates import Rates
from msd_ray.profiling.steady_peak import SteadyPeak
from msd_ray.profiling.tally import Tally, nbytes_in, without_data
from msd_ray.profiling.timing import StageTiming
from msd_ray.runs.plan import Plan
from msd_ray.teachers import LocalTeacher
from msd_ray.training import precision
from msd_ray.training.process_group import ProcessGroup
from msd_ray.training.student_networks import HEAD
from msd_ray.training.student_spec import Extras, StudentSpec
from msd_ray.training.student_trainer import StudentTrainer
from msd_ray.training.teacher_trainer import TeacherTrainer


class UncountableError(MsdRayError):
    """An objective does what only data allow, such as to pick some samples by their values."""


@dataclass(frozen=True)
class StageCount:
    """flops: floating-point operations per image, the fake score's and the teacher's included. timing: seconds at the
    rates that were given, of all workers together."""

    flops: float
    timing: StageTiming


@dataclass(frozen=True)
class StudentCount:
    """stages: by name. memory: bytes on the device at the most, of weights, gradients, optimizers, averages and what
    the backward pass needs; on that of one worker, where the fewest workers share the student. state: bytes of the
    largest checkpoint, and of its copy in the host's memory while it is written. probe: seconds to make the samples of
    an FID probe."""

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
    """Lets it make one update of each stage. Raises UncountableError where it cannot."""
    plan = without_texts(plan)
    stages, memory, state, probe, heads = dict[str, StageCount](), 0, 0, 0.0, dict[str, int]()
    for name in spec.stages:
        tally = Tally()
        with without_data(tally, gpu=plan.cluster.gpus_per_student > 0):
            stage = _Stage(plan, spec, name, rates, tally)
            stages[name], held, files = stage.count()
            probe = stage.probe()
        kept = sum(n for head, n in heads.items() if head not in files)  # discriminators of stages before
        memory, state = max(memory, held + kept), max(state, sum(files.values()) + kept)
        heads |= {file: n for file, n in files.items() if file.startswith(HEAD)}
    return StudentCount(stages, memory, state, probe)


def count_teacher(plan: Plan, rates: Rates) -> TeacherCount:
    """Lets it make two updates, since the first begins without the averages of its optimizer; none where it is not
    trained here."""
    plan = without_texts(plan)
    answer, replica = _answer(plan, rates)
    if plan.source:
        return TeacherCount(0.0, 0, 0, answer, replica)
    recipe, tally = plan.recipe, Tally()
    config = replace(recipe.teacher, images=2 * recipe.teacher.batch)
    with without_data(tally):
        blank = torch.zeros(config.batch, *plan.teacher.sample_shape)
        data = in_memory(blank, torch.zeros(config.batch, dtype=torch.long))
        trainer = TeacherTrainer(config, plan.teacher, recipe.noise, data, plan.conditions)
        trainer.advance(config.images)
        seconds, state = rates.seconds(tally) / config.images, trainer.state_dict().bytes
    return TeacherCount(seconds, tally.peak, state, answer, replica)


def _answer(plan: Plan, rates: Rates) -> tuple[float, int]:
    """Seconds per image, and the most bytes, of answers as students want them."""
    stages, tally = plan.first.stages, Tally()
    n = max(stage.batch for stage in stages.values()) // plan.first.shards
    gradient = any(plan.first.objective(name).needs.teacher == "gradient" for name in stages)
    with without_data(tally, gpu=plan.cluster.pool.gpus > 0):
        teacher = _teacher(plan)
        x, sigma = torch.zeros(n, *plan.teacher.sample_shape), torch.ones(n)
        with torch.set_grad_enabled(gradient):
            x0 = teacher(x.requires_grad_(gradient), sigma, _first(plan, n))
        seconds = rates.seconds(tally) / n
        if gradient:
            torch.autograd.grad(x0, x, x0)
    return seconds, tally.peak


def _teacher(plan: Plan) -> Denoiser:
    """Free of charge where nobody knows how it is built."""
    spec = plan.source.spec if plan.source else plan.teacher
    if spec is None:
        return lambda x_t, sigma, condition: x_t.clone()
    denoiser = conditioned(spec.build(), plan.conditions).eval().requires_grad_(False)
    precision.apply_frozen(denoiser, plan.recipe.training)
    guidance, none = plan.recipe.teacher.guidance, plan.conditions.unconditional
    return denoiser if guidance == 1 or none is None else Guided(denoiser, none, guidance)


def _first(plan: Plan, n: int) -> Tensor:
    """The first condition n times, as denoisers take it."""
    return plan.conditions.encode(torch.zeros(n, dtype=torch.long))


class _OneOf(ProcessGroup):
    """The first of several workers that share a student; the others are only imagined."""

    def sum(self, tensors: Sequence[Tensor]) -> None:
        if self.world > 1:
            torch.cat([tensor.flatten() for tensor in tensors])  # the message takes memory

    def total(self, value: float, device: torch.device) -> float:
        return value


class _OneWithPieces(_OneOf):
    """It sends no gradients, but pieces of them in the backward pass."""

    def sum(self, tensors: Sequence[Tensor]) -> None:
        pass


class _Stage:
    """A student of a plan that trains this stage, without data. The tally is running."""

    def __init__(self, plan: Plan, spec: StudentSpec, name: str, rates: Rates, tally: Tally) -> None:
        self._plan, self._spec, self._name, self._rates, self._tally = plan, spec, name, rates, tally
        self._owned = plan.ensembles[0].partition.owned_by(spec.index, plan.conditions)
        self._local = plan.cluster.teacher == "local"
        self._elsewhere = ClockedTeacher(self._teacher(), self._seconds, tally.aside)
        self._workers = plan.cluster.workers_per_student[0]
        self._divided = self._workers > 1 and spec.training.sharding == "full"
        self._trainer = self._new()

    def count(self) -> tuple[StageCount, int, dict[str, int]]:
        """Of an update; the most bytes that updates hold; the bytes of each file of a checkpoint."""
        between = self._divide() if self._divided else 0
        flops, seconds = self._tally.flops, self._seconds()
        with SteadyPeak(self._tally, first=not self._divided) as peak:
            self._update()
        flops, seconds = self._tally.flops - flops, self._seconds() - seconds
        asked, waits, batch = self._elsewhere.seconds, self._elsewhere.waits, self._spec.stages[self._name].batch
        each = self._workers / batch  # all workers do as much as this one
        timing = StageTiming((seconds - asked) * each, asked * each, waits * each)
        state = self._trainer.state_dict().tensors
        memory = max(peak.bytes() + self._gathered(), between)
        return StageCount(flops * each, timing), memory, {name: nbytes_in(state[name]) for name in state}

    def _divide(self) -> int:
        """Leaves of what a first update made the part of one worker, and of the gradients to come. Returns the bytes
        between two updates, when the first worker is measured, for which it has two networks whole."""
        self._update()
        nets, ema = self._trainer.nets, self._trainer.ema
        modules = [m for m in (nets.generator, nets.fake, nets.head, nets.target, ema) if m]
        for p in (p for module in modules for p in module.parameters()):
            self._tally.divide(p, self._workers)
            if p.requires_grad:
                p.register_post_accumulate_grad_hook(self._divide_gradient)  # type: ignore[no-untyped-call]
        for average in self._trainer.averages():
            self._tally.divide(average, self._workers)
        return self._tally.held + sum(nbytes_in(list(net.parameters())) for net in (ema, nets.fake))

    def _divide_gradient(self, weight: Tensor) -> None:
        self._tally.divide(weight.grad, self._workers)  # type: ignore[arg-type]

    def _gathered(self) -> int:
        """Bytes of what a worker has of the others' at the most, where they divide the weights: of the block that is
        computed its weights and its gradients, the weights of the next, and what is sent of the one before; and all
        that lies in no block."""
        if not self._divided:
            return 0
        networks = [self._trainer.nets.generator.network, self._trainer.nets.fake.network]
        blocks = [[nbytes_in(list(b.parameters())) for b in precision.blocks(network)] for network in networks]
        whole = [nbytes_in(list(network.parameters())) for network in networks]
        beside = sum(total - sum(sizes) for total, sizes in zip(whole, blocks, strict=True))
        return beside + 4 * max(size for sizes in blocks for size in (*sizes, 0))

    def probe(self) -> float:
        n, spec, before = self._plan.recipe.evaluation.curve_samples, self._spec, self._seconds()
        levels = spec.noise.step_levels
        if spec.phases > 1:
            return 0.0  # it makes no whole samples
        with torch.no_grad():
            z = torch.zeros(len(levels), n, *spec.denoiser.sample_shape)
            few_steps(self._trainer.ema, z[0], _first(self._plan, n), z[1:], levels)
        return self._seconds() - before

    def _update(self) -> None:
        try:
            self._trainer.advance(1)
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise UncountableError(f"stage {self._name} cannot be counted without data: {reason}") from error

    def _new(self) -> StudentTrainer:
        stage = self._spec.stages[self._name]
        images, whole = stage.batch * (1 + self._divided), replace(self._spec.training, sharding="none")
        spec = replace(self._spec, stages={self._name: replace(stage, images=images, fake_first=0)}, training=whole)
        blank = torch.zeros(1, *spec.denoiser.sample_shape)
        real = in_memory(blank, self._owned.ids[:1])
        pairs = Pairs(blank, blank, self._owned.ids[:1])
        asked = self._teacher(held=self._local or any(self._spec.objective(s).needs.encoder for s in self._spec.stages))
        teacher = LocalTeacher(asked) if self._local else self._elsewhere
        extras = Extras(encoder=unguided(asked), pairs=pairs)
        group = (_OneWithPieces if self._divided else _OneOf)(rank=0, world=self._workers)
        return StudentTrainer(spec, self._owned, teacher, None, real, "cpu", extras, group)

    def _teacher(self, held: bool = False) -> Denoiser:
        """held: whether it lies in the student's memory."""
        with nullcontext() if held else self._tally.aside():
            return _teacher(self._plan)

    def _seconds(self) -> float:
        return self._rates.seconds(self._tally)
