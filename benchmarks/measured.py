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

from msd_ray.cluster.students import StudentTask, StudentTraining
from msd_ray.cluster.work import Progress
from msd_ray.storage import Store
from msd_ray.teachers import Answer, Teacher
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.state import State


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

    def open(self) -> "MeasuredTraining":
        training, clocks = self.task.open(), Clocks()
        training.trainer.teacher = _TimedTeacher(training.trainer.teacher, clocks)
        checkpoints = _TimedCheckpoints(training.checkpoints.store, training.checkpoints.keep, clocks)
        return MeasuredTraining(
            training.trainer, checkpoints, training.judge, training.evaluation, training.pool, clocks=clocks
        )


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

    def _fid(self) -> float:
        with self.clocks("probe"):
            return super()._fid()


class _TimedCheckpoints(Checkpoints):
    def __init__(self, store: Store, keep: int, clocks: Clocks) -> None:
        super().__init__(store, keep)
        self._clocks = clocks

    def save(self, state: State) -> None:
        with self._clocks("checkpoint"):
            super().save(state)


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
