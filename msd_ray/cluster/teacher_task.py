"""The task of training a teacher, where the run has none yet, and the teacher in the process of a slot."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from msd_ray.cluster.progress import Progress
from msd_ray.cluster.work import SingleProcess
from msd_ray.conditions import ConditionsConfig, make_conditions
from msd_ray.data import DataConfig, load_data
from msd_ray.diffusion import Noise
from msd_ray.networks import DenoiserSpec
from msd_ray.storage import Store
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.device import prepare_device
from msd_ray.training.metrics import newest_loss
from msd_ray.training.saving import Saver
from msd_ray.training.teacher_trainer import TeacherConfig, TeacherTrainer


@dataclass(frozen=True)
class TeacherTask:
    """A teacher that has to be trained first."""

    config: TeacherConfig
    spec: DenoiserSpec
    noise: Noise
    data: DataConfig
    conditions: ConditionsConfig
    checkpoints: Store
    gpus: float

    def open(self, known: int = 0) -> "TeacherTraining":
        device = prepare_device(self.gpus, self.config.threads)
        data = load_data(self.data)
        conditions = make_conditions(self.conditions, data.labels)
        trainer = TeacherTrainer(self.config, self.spec, self.noise, data.train, conditions, device)
        checkpoints = Checkpoints(self.checkpoints, keep=1)
        if state := checkpoints.latest(known):
            trainer.load_state_dict(state)
        return TeacherTraining(trainer, Saver(checkpoints))


@dataclass
class TeacherTraining(SingleProcess):
    """A teacher in the process of a slot."""

    trainer: TeacherTrainer
    saver: Saver
    began: tuple[int, float] | None = None
    loss: float = float("nan")
    """Of the segment before."""

    @property
    def nimg(self) -> int:
        return self.trainer.nimg

    @property
    def bytes(self) -> int:
        return self.trainer.bytes()

    @property
    def device(self) -> torch.device:
        return self.trainer.device

    def current_progress(self) -> Progress:
        beats = self.saver.checkpoints.pieces
        trainer = self.trainer
        return Progress.within(trainer.nimg, "teacher", trainer.done, self.loss, self.began, beats)

    def advance(self, images: int, replicas: list[Any], hurried: Callable[[], bool]) -> Progress:
        trainer = self.trainer
        begin, start = self.began = trainer.nimg, time.perf_counter()
        metrics = trainer.advance(images, hurried)
        rate = (trainer.nimg - begin) / (time.perf_counter() - start)
        if metrics:
            self.saver.begin(trainer.state_dict())
            self.loss = newest_loss(metrics)
        if trainer.done or hurried() or not metrics:
            self.saver.finish()
        writing = self.saver.writing
        return Progress(trainer.nimg, "teacher", rate, trainer.done, loss=self.loss, begin=begin, writing=writing)

    def rest(self) -> None:
        self.trainer.rest()
        self.saver.finish()
