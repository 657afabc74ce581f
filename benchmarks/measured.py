"""The students of a run with clocks in them: the same code as in `msd_ray.cluster`, timed where it is entered and left.

To be imported after `msd_ray.cluster.connect.listen_on_loopback`, since it imports ray.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from msd_ray.cluster.progress import Progress
from msd_ray.cluster.student_evaluation import StudentEvaluation
from msd_ray.cluster.students import StudentTask, StudentTraining
from msd_ray.teachers import Answer, Teacher
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.saving import Saver
from msd_ray.training.state import State
from msd_ray.training.student_trainer import StudentTrainer


class Clocks:
    """Seconds so far by purpose. cpu: of the thread that trains. wall: of the clock on the wall."""

    def __init__(self) -> None:
        self.cpu: defaultdict[str, float] = defaultdict(float)
        self.wall: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, purpose: str) -> Iterator[None]:
        cpu, wall = time.thread_time(), time.perf_counter()
        try:
            yield
        finally:
            self.cpu[purpose] += time.thread_time() - cpu
            self.wall[purpose] += time.perf_counter() - wall


@dataclass(frozen=True)
class MeasuredProgress(Progress):
    """process: CPU seconds of all threads of the student's process so far. teacher: those that its requests cost the
    pool in maths. cpu, wall: of `Clocks`. All since the process began."""

    process: float = 0.0
    teacher: float = 0.0
    cpu: dict[str, float] | None = None
    wall: dict[str, float] | None = None


@dataclass(frozen=True)
class MeasuredTask:
    """A student's task whose progress also says where its time went."""

    task: StudentTask

    def open(self, known: int = 0) -> "MeasuredTraining":
        training, clocks = self.task.open(known), Clocks()
        training.trainer.teacher = _TimedTeacher(training.trainer.teacher, clocks)
        saver = _TimedSaver(training.saver.checkpoints, clocks)
        measuring = _TimedMeasuring(**vars(training.measuring), clocks=clocks)
        return MeasuredTraining(training.trainer, saver, measuring, training.pool, clocks=clocks)


@dataclass(kw_only=True)
class MeasuredTraining(StudentTraining):
    clocks: Clocks

    def advance(self, images: int, replicas: list[Any], hurried: Callable[[], bool]) -> MeasuredProgress:
        with self.clocks("segment"):
            progress = super().advance(images, replicas, hurried)
        return MeasuredProgress(
            **vars(progress),
            process=time.process_time(),
            teacher=self.pool.cpu_seconds if self.pool else 0.0,
            cpu=dict(self.clocks.cpu),
            wall=dict(self.clocks.wall),
        )


class _TimedSaver(Saver):
    """Times how long training stands still for its checkpoints."""

    def __init__(self, checkpoints: Checkpoints, clocks: Clocks) -> None:
        super().__init__(checkpoints)
        self._clocks = clocks

    def begin(self, state: State) -> None:
        self.finish()
        with self._clocks("checkpoint"):
            super().begin(state)

    def finish(self) -> None:
        with self._clocks("checkpoint"):
            super().finish()


@dataclass(kw_only=True)
class _TimedMeasuring(StudentEvaluation):
    clocks: Clocks

    def measure(self, trainer: StudentTrainer, begin: int) -> float | None:
        with self.clocks("probe"):
            return super().measure(trainer, begin)


@dataclass(frozen=True)
class _TimedTeacher:
    teacher: Teacher
    clocks: Clocks

    def submit(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Answer:
        with self.clocks("submit"):
            return _TimedAnswer(self.teacher.submit(x_t, sigma, condition), self.clocks)


@dataclass(frozen=True)
class _TimedAnswer:
    answer: Answer
    clocks: Clocks

    def result(self) -> Tensor:
        with self.clocks("collect"):
            return self.answer.result()
