"""The tasks of a run: its students, and a teacher that has to be trained first."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from msd_ray.cluster.pool.client import TeacherPool
from msd_ray.cluster.work import Alone, Progress
from msd_ray.data import DataConfig, load_data
from msd_ray.diffusion import Noise, one_step
from msd_ray.evaluation import EvaluationConfig, Judge, load_features
from msd_ray.evaluation.tiles import sheet
from msd_ray.networks import DenoiserSpec
from msd_ray.random import stream
from msd_ray.recipes import PoolConfig
from msd_ray.runs.pairs import load_pairs
from msd_ray.runs.start import starting_weights
from msd_ray.runs.teacher import load_teacher
from msd_ray.storage import Store
from msd_ray.teachers import LocalTeacher, Teacher
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.device import prepare_device
from msd_ray.training.group import ALONE, Group
from msd_ray.training.metrics import Metric, newest_loss
from msd_ray.training.preview import PREVIEWS, can_preview, preview
from msd_ray.training.spec import Extras, StudentSpec
from msd_ray.training.student import StudentTrainer
from msd_ray.training.teacher import TeacherConfig, TeacherTrainer


@dataclass(frozen=True)
class Surroundings:
    """What all students of a run share. teacher: the folder it is kept in, on storage that all nodes share.
    pool: how the teacher actors are asked, None for a teacher in each student. cache: where the feature network lies.
    pairs: the folder of the teacher's pairs and how many parts of it to use, where an objective needs them. init: the
    ensemble to start from, if any."""

    data: DataConfig
    evaluation: EvaluationConfig
    cache: Store
    teacher: Store
    pool: PoolConfig | None
    gpus: float
    pairs: tuple[Store, list[int]] | None = None
    init: str = ""


@dataclass(frozen=True)
class StudentTask:
    """One student. checkpoints: where they are kept. until: images after which it has done what is asked for now, its
    whole training if None."""

    spec: StudentSpec
    checkpoints: Store
    around: Surroundings
    until: int | None = None

    def open(self, group: Group = ALONE) -> "StudentTraining":
        """group: the processes that train the student together."""
        around, spec = self.around, self.spec
        device = prepare_device(around.gpus, spec.training.threads)
        data = load_data(around.data)
        real = data.train.only(list(spec.conditions))
        features = load_features(around.evaluation.features, data, around.cache)
        initial, fake = starting_weights(spec, around.teacher, around.init)
        needs = [spec.objective(stage).needs for stage in spec.stages]
        original = pairs = None
        if not around.pool or any(n.encoder for n in needs):
            original = load_teacher(around.teacher, spec.training.precision).to(device)
        if around.pairs and any(n.pairs for n in needs):
            pairs = load_pairs(*around.pairs, spec.denoiser.sample_shape).to(device)
        pool = TeacherPool(around.pool, first=spec.index) if around.pool else None
        teacher: Teacher | None = pool or (LocalTeacher(original) if original else None)
        assert teacher
        trainer = StudentTrainer(spec, teacher, initial, real, device, Extras(fake, original, pairs), group)
        checkpoints = Checkpoints(self.checkpoints, spec.training.keep)
        if state := checkpoints.latest():
            trainer.load_state_dict(state)
        judge = Judge(features, real, around.evaluation)
        return StudentTraining(trainer, checkpoints, judge, around.evaluation, pool, self.until)


@dataclass
class StudentTraining(Alone):
    """A student in the process of a slot: it trains, is measured and writes a checkpoint. Where processes train it
    together, the first of them does what is not training."""

    trainer: StudentTrainer
    checkpoints: Checkpoints
    judge: Judge
    evaluation: EvaluationConfig
    pool: TeacherPool | None
    until: int | None = None
    began: tuple[int, float] | None = None
    """The image and the time at which the segment under way began."""

    @property
    def nimg(self) -> int:
        return self.trainer.nimg

    @property
    def bytes(self) -> int:
        return self.trainer.state_dict().bytes

    @property
    def done(self) -> bool:
        """Whether it has come as far as is asked for now."""
        return self.nimg >= self._end

    @property
    def _end(self) -> int:
        return self.until or self.trainer.spec.images

    def standing(self) -> Progress:
        trainer = self.trainer
        return _standing(trainer.nimg, trainer.stage, self.done, newest_loss(trainer.metrics), self.began)

    def advance(self, images: int, replicas: list[Any], hurried: Callable[[], bool]) -> Progress:
        trainer, pool = self.trainer, self.pool
        if pool:
            pool.use(replicas)
        begin, start, asked = trainer.nimg, time.perf_counter(), self._asked()
        self.began = begin, start
        trainer.advance(min(images, self._end - begin), hurried)
        seconds = time.perf_counter() - start
        cpu, wait = (now - before for now, before in zip(self._asked(), asked, strict=True))
        cpu = trainer.group.total(cpu, trainer.device)
        fid = self._conclude(begin, cpu, wait) if trainer.group.rank == 0 else None
        return Progress(
            trainer.nimg,
            trainer.stage,
            (trainer.nimg - begin) / seconds,
            self.done,
            loss=newest_loss(trainer.metrics),
            fid=fid,
            fid_samples=self.evaluation.curve_samples,
            begin=begin,
            waited=wait / seconds,
        )

    def _asked(self) -> tuple[float, float]:
        """CPU seconds that this process's requests have cost the pool so far, and seconds that it waited for it."""
        return (self.pool.cpu_seconds, self.pool.wait_seconds) if self.pool else (0.0, 0.0)

    def _conclude(self, begin: int, teacher_cpu: float, teacher_wait: float) -> float | None:
        """Measures and keeps what was trained since `begin`; the FID, if there is one yet. teacher_cpu, teacher_wait:
        seconds that all processes cost the pool, and that this one waited for it."""
        trainer, fid = self.trainer, None
        if trainer.makes_samples:
            fid = self._fid()
            self._log(f"fid@{self.evaluation.curve_samples}", fid)
        self._preview(begin)
        if self.pool:
            self._log("teacher_cpu_seconds", teacher_cpu)
            self._log("teacher_wait_seconds", teacher_wait)
        if trainer.nimg > begin:
            self.checkpoints.save(trainer.state_dict())
        return fid

    def _log(self, name: str, value: float) -> None:
        self.trainer.metrics.append(Metric(self.trainer.stage, self.trainer.nimg, name, value))

    def _preview(self, begin: int) -> None:
        """Keeps a picture of what the networks make of the same noise, where this segment passed a due image."""
        every, trainer = self.evaluation.preview_every, self.trainer
        if can_preview(trainer.spec) and begin // every < trainer.nimg // every:
            name = f"{trainer.nimg:012d}.png"
            self.checkpoints.store.child(PREVIEWS).write(name, sheet(preview(trainer)))

    def _fid(self) -> float:
        trainer, n = self.trainer, self.evaluation.curve_samples
        spec = trainer.spec
        z = torch.randn(n, *spec.denoiser.sample_shape, generator=stream("curve", spec.index))
        condition = torch.tensor(spec.conditions)[torch.arange(n) % len(spec.conditions)]
        with torch.no_grad():
            x = one_step(trainer.ema, z.to(trainer.device), condition.to(trainer.device), spec.noise.sigma_init)
        return self.judge.fid(x.cpu())


@dataclass(frozen=True)
class TeacherTask:
    """A teacher that has to be trained first."""

    config: TeacherConfig
    spec: DenoiserSpec
    noise: Noise
    data: DataConfig
    checkpoints: Store
    gpus: float

    def open(self) -> "TeacherTraining":
        device = prepare_device(self.gpus, self.config.threads)
        real = load_data(self.data).train
        trainer = TeacherTrainer(self.config, self.spec, self.noise, real, device)
        checkpoints = Checkpoints(self.checkpoints, keep=1)
        if state := checkpoints.latest():
            trainer.load_state_dict(state)
        return TeacherTraining(trainer, checkpoints)


@dataclass
class TeacherTraining(Alone):
    """A teacher in the process of a slot."""

    trainer: TeacherTrainer
    checkpoints: Checkpoints
    began: tuple[int, float] | None = None
    loss: float = float("nan")
    """Of the segment before."""

    @property
    def nimg(self) -> int:
        return self.trainer.nimg

    @property
    def bytes(self) -> int:
        return self.trainer.state_dict().bytes

    def standing(self) -> Progress:
        return _standing(self.trainer.nimg, "teacher", self.trainer.done, self.loss, self.began)

    def advance(self, images: int, replicas: list[Any], hurried: Callable[[], bool]) -> Progress:
        trainer = self.trainer
        begin, start = self.began = trainer.nimg, time.perf_counter()
        metrics = trainer.advance(images, hurried)
        rate = (trainer.nimg - begin) / (time.perf_counter() - start)
        if metrics:
            self.checkpoints.save(trainer.state_dict())
        self.loss = newest_loss(metrics)
        return Progress(trainer.nimg, "teacher", rate, trainer.done, loss=self.loss, begin=begin)


def _standing(nimg: int, stage: str, done: bool, loss: float, began: tuple[int, float] | None) -> Progress:
    """began: the image and the time at which the segment did, if any did."""
    now = time.perf_counter()
    begin, start = began or (nimg, now)
    rate = (nimg - begin) / (now - start) if nimg > begin else 0.0
    return Progress(nimg, stage, rate, done, loss=loss, begin=begin)
