"""Trying out the pieces of a plan in this process, to see how long each takes. No Ray, and nothing is trained."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import median

import torch

from msd_ray.codecs import load_codec
from msd_ray.conditions import conditioned
from msd_ray.data import DataSet, in_memory, load_data
from msd_ray.diffusion import Denoiser, few_steps, unguided
from msd_ray.evaluation import FeatureNet, Judge, features_name, load_features
from msd_ray.evaluation.classifier import untrained
from msd_ray.evaluation.decoded import OfPictures, decoded
from msd_ray.evaluation.feature_nets import TRAINED
from msd_ray.objectives import Pairs
from msd_ray.profiling.clocks import Clock, ClockedTeacher
from msd_ray.profiling.timing import StageTiming, Timing
from msd_ray.recipes import Recipe
from msd_ray.runs.plan import Plan
from msd_ray.runs.teacher_cache import load_teacher
from msd_ray.storage import Store, default_cache
from msd_ray.teachers import LocalTeacher, Teacher
from msd_ray.training import precision
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.device import prepare_device
from msd_ray.training.student_spec import Extras, StudentSpec
from msd_ray.training.student_trainer import StudentTrainer
from msd_ray.training.teacher_trainer import TeacherTrainer

FEWEST, MOST, ENOUGH = 3, 20, 0.5
"""Repeats: at least, at most, and the seconds after which no more begin."""
ENDLESS = 10**9


def try_out(plan: Plan, gpus: float) -> Timing:
    """To be called first thing in a process. gpus: whether to use one."""
    start = time.process_time()
    with _timer(plan, plan.largest, gpus) as timer:
        return Timing(
            device=timer.device.type,
            stages={name: timer.stage(name) for name in plan.recipe.stages},
            segment=timer.checkpoint() + timer.probe(),
            open=timer.opening(),
            teacher=timer.teaching(),
            answer=timer.answer(),
            start=start,
        )


@contextmanager
def _timer(plan: Plan, student: StudentSpec, gpus: float) -> Iterator["_StepTimer"]:
    with tempfile.TemporaryDirectory() as folder:
        yield _StepTimer(plan, student, prepare_device(gpus, plan.recipe.training.threads), Store(folder))


class _StepTimer:
    """One student of a plan. A teacher that is trained here, features and real samples are blanks, which cost as much
    as real ones."""

    def __init__(self, plan: Plan, student: StudentSpec, device: torch.device, folder: Store) -> None:
        self._plan, self.device, self._spec = plan, device, student
        self._owned = plan.ensembles[0].partition.owned_by(student.index, plan.conditions)
        self._clock = Clock(device, plan.recipe.training.threads)
        self._teacher = _teacher(plan, device)
        self._checkpoints = Checkpoints(folder, keep=1)
        self._data = load_data(plan.recipe.data)

    def stage(self, name: str) -> StageTiming:
        """The medians of several updates. What an objective does rarely or late (R1, a GAN that joins) is not seen."""
        batch, clocked = self._spec.stages[name].batch, ClockedTeacher(self._teacher, self._clock)
        local = self._plan.cluster.teacher == "local"
        self._trainer = self._endless(name, LocalTeacher(self._teacher) if local else clocked)
        rows: list[tuple[float, float, float]] = []

        def update() -> float:
            clocked.reset()
            seconds = self._clock.of(lambda: self._trainer.advance(batch))
            rows.append((seconds - clocked.seconds, clocked.seconds, clocked.waits))
            return seconds

        _repeated(update)
        own, asked, waits = (median(column) / batch for column in zip(*rows[1:], strict=True))
        return StageTiming(own, asked, waits)

    def checkpoint(self) -> float:
        """To write one, in the last stage that was tried."""
        return self._median(lambda: self._checkpoints.save(self._trainer.state_dict()))

    def opening(self) -> float:
        """To read what `checkpoint` wrote."""

        def reopen() -> None:
            trainer, state = self._endless(self._trainer.stage, LocalTeacher(self._teacher)), self._checkpoints.latest()
            assert state
            trainer.load_state_dict(state)
            self._judge()

        return self._median(reopen)

    def probe(self) -> float:
        """0 where nothing is probed, or features have to be downloaded first."""
        judge, n, spec = self._judge(), self._plan.recipe.evaluation.curve_samples, self._spec
        if judge is None or not self._trainer.makes_samples:
            return 0.0
        z = torch.randn(n, *spec.denoiser.sample_shape, device=self.device)
        condition, levels = self._owned.in_turn(n).to(self.device), spec.noise.step_levels
        renoise = torch.randn(len(levels) - 1, *z.shape, device=self.device)

        def measure() -> None:
            with torch.no_grad():
                judge.fid(few_steps(self._trainer.ema, z, condition, renoise, levels).cpu())

        return self._median(measure)

    def teaching(self) -> float:
        """An image of the teacher's own training; 0 where it is not trained here."""
        if self._plan.source:
            return 0.0
        recipe, config = self._plan.recipe, replace(self._plan.recipe.teacher, images=ENDLESS)
        prepare_device(0, config.threads)
        trainer = TeacherTrainer(
            config, self._plan.teacher, recipe.noise, self._data.train, self._plan.conditions, self.device
        )
        clock = Clock(self.device, config.threads)
        return _repeated(lambda: clock.of(lambda: trainer.advance(config.batch))) / config.batch

    def answer(self) -> float:
        """An image of an answer of the teacher; its processes have one thread."""
        prepare_device(0, threads=1)
        n, clock = next(iter(self._spec.stages.values())).batch, Clock(self.device, threads=1)
        x = torch.randn(n, *self._plan.teacher.sample_shape, device=self.device)
        sigma, first = torch.ones(n, device=self.device), torch.zeros(n, dtype=torch.long, device=self.device)
        condition = self._plan.conditions.encode(first)
        with torch.no_grad():
            return _repeated(lambda: clock.of(lambda: self._teacher(x, sigma, condition))) / n

    def _endless(self, name: str, teacher: Teacher) -> StudentTrainer:
        """A trainer whose only stage is this one, and never ends."""
        stage = replace(self._spec.stages[name], images=ENDLESS * self._spec.stages[name].batch, fake_first=0)
        training = replace(self._spec.training, max_skipped=ENDLESS)
        spec = replace(self._spec, stages={name: stage}, training=training)
        blank = torch.zeros(1, *spec.denoiser.sample_shape)
        real = in_memory(blank.expand(stage.batch, *blank.shape[1:]), self._owned.ids[:1].expand(stage.batch))
        pairs = Pairs(blank, blank, self._owned.ids[:1]).to(self.device)
        extras = Extras(encoder=unguided(self._teacher), pairs=pairs)
        return StudentTrainer(spec, self._owned, teacher, None, real, self.device, extras)

    def _judge(self) -> Judge | None:
        features = _features(self._plan.recipe, self._data)
        real = self._data.train.only(self._owned.ids)
        return Judge(features, real, self._plan.recipe.evaluation) if features else None

    def _median(self, act: Callable[[], object]) -> float:
        return _repeated(lambda: self._clock.of(act))


def _teacher(plan: Plan, device: torch.device) -> Denoiser:
    if plan.source:
        return load_teacher(plan.source, device, plan.recipe.training)
    return (
        precision.apply_frozen(conditioned(plan.teacher.build(), plan.conditions), plan.recipe.training)
        .eval()
        .requires_grad_(False)
        .to(device)
    )


def _repeated(measure: Callable[[], float]) -> float:
    """The median of some measurements, after one that does not count."""
    measure()
    found: list[float] = []
    while len(found) < FEWEST or (len(found) < MOST and sum(found) < ENOUGH):
        found.append(measure())
    return median(found)


def _features(recipe: Recipe, data: DataSet) -> FeatureNet | None:
    """As large as those that the recipe asks for, but untrained; None where they would have to be downloaded."""
    codec = load_codec(recipe.codec)
    name = features_name(recipe.evaluation.features, data.shape, codec)
    if name.startswith("inception"):
        return None
    if name in TRAINED:
        return OfPictures(untrained(TRAINED[name], decoded(data, codec)).eval(), codec)
    return load_features(name, data, default_cache(), codec, recipe.evaluation.files)
