"""The actors that train: one per student, and one for a teacher that has to be trained first."""

import time
from dataclasses import dataclass
from typing import Any

import torch

from msd_ray.cluster.device import prepare_device
from msd_ray.cluster.pool import TeacherPool
from msd_ray.data import DataConfig, load_data
from msd_ray.diffusion import Noise, one_step
from msd_ray.evaluation import EvaluationConfig, Judge, load_features
from msd_ray.evaluation.tiles import sheet
from msd_ray.networks import DenoiserSpec
from msd_ray.random import stream
from msd_ray.runs.pairs import load_pairs
from msd_ray.runs.start import starting_weights
from msd_ray.runs.teacher import load_teacher
from msd_ray.storage import Store
from msd_ray.teachers import LocalTeacher, Teacher
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.metrics import Metric
from msd_ray.training.preview import PREVIEWS, can_preview, preview
from msd_ray.training.student import Extras, StudentSpec, StudentTrainer
from msd_ray.training.teacher import TeacherConfig, TeacherTrainer


@dataclass(frozen=True)
class Progress:
    """Where a trainer stands after a segment. fid: of the student on its own classes, over fid_samples samples."""

    nimg: int
    stage: str
    images_per_second: float
    done: bool
    loss: float = float("nan")
    fid: float | None = None
    fid_samples: int = 0


@dataclass(frozen=True)
class Surroundings:
    """What all students of a run share. teacher: the folder it is kept in, on storage that all nodes share.
    pool: the teacher actors, or None for a teacher in each student. cache: where the feature network lies. pairs: the
    folder of the teacher's pairs and how many parts of it to use, where an objective needs them. init: the ensemble to
    start from, if any."""

    data: DataConfig
    evaluation: EvaluationConfig
    cache: Store
    teacher: Store
    pool: list[Any] | None
    gpus: float
    pairs: tuple[Store, list[int]] | None = None
    init: str = ""


class StudentActor:
    """Trains one student in segments; a checkpoint ends each. Made anew, it goes on from the newest checkpoint."""

    def __init__(self, spec: StudentSpec, checkpoints: Store, surroundings: Surroundings) -> None:
        # Nothing that can fail happens here: an error in a method reaches the driver as it is, one here does not.
        self._spec, self._around = spec, surroundings
        self._checkpoints = Checkpoints(checkpoints, spec.training.keep)
        self._trainer: StudentTrainer | None = None

    def advance(self, images: int) -> Progress:
        """Trains on `images` more images, measures FID, writes a checkpoint."""
        trainer = self._trainer = self._trainer or self._restored()
        begin, start = trainer.nimg, time.perf_counter()
        asked_before = self._pool.cpu_seconds if self._pool else 0.0
        logged = trainer.advance(images)
        rate = (trainer.nimg - begin) / (time.perf_counter() - start)
        samples, fid = self._around.evaluation.curve_samples, None
        if trainer.makes_samples:
            fid = self._fid(trainer)
            self._log(f"fid@{samples}", fid)
        self._preview(trainer, begin)
        if self._pool:
            self._log("teacher_cpu_seconds", self._pool.cpu_seconds - asked_before)
        if trainer.nimg > begin:
            self._checkpoints.save(trainer.state_dict())
        loss = logged[0].value if logged else float("nan")
        return Progress(trainer.nimg, trainer.stage, rate, trainer.done, loss=loss, fid=fid, fid_samples=samples)

    def _log(self, name: str, value: float) -> None:
        assert self._trainer
        self._trainer.metrics.append(Metric(self._trainer.stage, self._trainer.nimg, name, value))

    def _restored(self) -> StudentTrainer:
        around, spec = self._around, self._spec
        device = prepare_device(around.gpus, spec.training.threads)
        data = load_data(around.data)
        real = data.train.only(list(spec.conditions))
        features = load_features(around.evaluation.features, data, around.cache)
        self._judge = Judge(features, real, around.evaluation)
        initial, fake = starting_weights(spec, around.teacher, around.init)
        needs = [spec.objective(stage).needs for stage in spec.stages]
        original = pairs = None
        if not around.pool or any(n.encoder for n in needs):
            original = load_teacher(around.teacher, spec.training.precision).to(device)
        if around.pairs and any(n.pairs for n in needs):
            pairs = load_pairs(*around.pairs, spec.denoiser.sample_shape).to(device)
        self._pool = TeacherPool(around.pool, first=spec.index) if around.pool else None
        teacher: Teacher | None = self._pool or (LocalTeacher(original) if original else None)
        assert teacher
        trainer = StudentTrainer(spec, teacher, initial, real, device, Extras(fake, original, pairs))
        if state := self._checkpoints.latest():
            trainer.load_state_dict(state)
        return trainer

    def _preview(self, trainer: StudentTrainer, begin: int) -> None:
        """Keeps a picture of what the networks make of the same noise, where this segment passed a due image."""
        every = self._around.evaluation.preview_every
        if can_preview(self._spec) and begin // every < trainer.nimg // every:
            name = f"{trainer.nimg:012d}.png"
            self._checkpoints.store.child(PREVIEWS).write(name, sheet(preview(trainer)))

    def _fid(self, trainer: StudentTrainer) -> float:
        n, device = self._around.evaluation.curve_samples, trainer.device
        z = torch.randn(n, *self._spec.denoiser.sample_shape, generator=stream("curve", self._spec.index))
        condition = torch.tensor(self._spec.conditions)[torch.arange(n) % len(self._spec.conditions)]
        with torch.no_grad():
            x = one_step(trainer.ema, z.to(device), condition.to(device), self._spec.noise.sigma_init)
        return self._judge.fid(x.cpu())


class TeacherTrainingActor:
    """Trains the teacher in segments, with checkpoints like a student's."""

    def __init__(
        self,
        config: TeacherConfig,
        spec: DenoiserSpec,
        noise: Noise,
        data: DataConfig,
        checkpoints: Store,
        gpus: float,
    ) -> None:
        self._checkpoints = Checkpoints(checkpoints, keep=1)
        self._config, self._spec, self._noise, self._data, self._gpus = config, spec, noise, data, gpus
        self._trainer: TeacherTrainer | None = None

    def advance(self, images: int) -> Progress:
        trainer = self._trainer = self._trainer or self._restored()
        begin, start = trainer.nimg, time.perf_counter()
        metrics = trainer.advance(images)
        rate = (trainer.nimg - begin) / (time.perf_counter() - start)
        if metrics:
            self._checkpoints.save(trainer.state_dict())
        loss = metrics[0].value if metrics else float("nan")
        return Progress(trainer.nimg, "teacher", rate, trainer.done, loss=loss)

    def _restored(self) -> TeacherTrainer:
        device = prepare_device(self._gpus, self._config.threads)
        real = load_data(self._data).train
        trainer = TeacherTrainer(self._config, self._spec, self._noise, real, device)
        if state := self._checkpoints.latest():
            trainer.load_state_dict(state)
        return trainer
