"""The actors of a run with clocks in them: the same code as in `msd_ray.cluster`, timed where it is entered and left.

To be imported after `msd_ray.cluster.connect.listen_on_loopback`, since it imports ray.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from torch import Tensor

from msd_ray.cluster.actors import Progress, StudentActor, Surroundings
from msd_ray.storage import Store
from msd_ray.teachers import Answer, Teacher
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.state import State
from msd_ray.training.student import StudentSpec, StudentTrainer


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


class MeasuredStudent(StudentActor):
    """A StudentActor whose progress also says where its time went."""

    def __init__(self, spec: StudentSpec, checkpoints: Store, surroundings: Surroundings) -> None:
        super().__init__(spec, checkpoints, surroundings)
        self._clocks = Clocks()
        self._checkpoints = _TimedCheckpoints(checkpoints, spec.training.keep, self._clocks)

    def advance(self, images: int) -> MeasuredProgress:
        with self._clocks("segment"):
            progress = super().advance(images)
        known = {field.name: getattr(progress, field.name) for field in fields(Progress)}
        teacher = self._pool.cpu_seconds if self._pool else 0.0
        return MeasuredProgress(
            **known,
            process=time.process_time(),
            teacher=teacher,
            cpu=dict(self._clocks.cpu),
            wall=dict(self._clocks.wall),
        )

    def _restored(self) -> StudentTrainer:
        trainer = super()._restored()
        trainer.teacher = _TimedTeacher(trainer.teacher, self._clocks)
        return trainer

    def _fid(self, trainer: StudentTrainer) -> float:
        with self._clocks("probe"):
            return super()._fid(trainer)


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
