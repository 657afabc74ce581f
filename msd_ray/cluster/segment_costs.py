"""What the updates of a student cost this process, its device and the teacher pool."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

from msd_ray.cluster.pool.client import TeacherPool
from msd_ray.training.metrics import Metric
from msd_ray.training.precision import runs_as_written
from msd_ray.training.student_trainer import StudentTrainer
from msd_ray.training.utilisation import Operations, Utilisation, utilisation


@dataclass
class SegmentCosts:
    """Logs them with the trainer's curves, segment by segment."""

    trainer: StudentTrainer
    pool: TeacherPool | None
    _flops: dict[str, float] = field(default_factory=dict)
    """Floating-point operations of this process per image, by stage; 0 where they cannot be counted."""
    _begun: float = 0.0
    _asked: tuple[float, float] = (0.0, 0.0)
    _trained: int = 0

    def begin(self) -> None:
        """A segment begins."""
        self._begun, self._asked, self._trained = time.perf_counter(), self._asked_so_far(), self.trainer.nimg

    @contextmanager
    def update(self) -> Iterator[None]:
        """Around an update. Of the first of each stage in this process it counts the operations; not of compiled or
        recorded ones, which the counting would turn into others, nor where processes divide the weights. Of the first
        at all it logs the seconds, in which a compiler's are as well."""
        trainer, spec = self.trainer, self.trainer.spec
        stage, begins = spec.stage_at(trainer.nimg)
        if stage in self._flops:
            yield
            return
        counts = not trainer.is_divided and runs_as_written(spec.training)
        first, begun = trainer.nimg == begins, time.perf_counter()
        with Operations() if counts else nullcontext() as counted:
            yield
        if first:
            self._log("first_update_seconds", time.perf_counter() - begun)
        self._flops[stage] = counted.flops / spec.stages[stage].batch if counted else 0.0

    def end(self) -> tuple[float, float, Utilisation]:
        """Logs what the segment cost. Returns its images per second, the share of its time in which it waited for the
        pool, and how much of the device it used."""
        trainer, seconds = self.trainer, time.perf_counter() - self._begun
        cpu, wait = (now - before for now, before in zip(self._asked_so_far(), self._asked, strict=True))
        cpu = trainer.group.total(cpu, trainer.device)
        if self.pool:
            self._log("teacher_cpu_seconds", cpu)
            self._log("teacher_wait_seconds", wait)
        rate = (trainer.nimg - self._trained) / seconds
        used = utilisation(rate * self._flops.get(trainer.stage, 0.0), trainer.device)
        figures = {"tflops": used.flops / 1e12, "mfu": used.mfu, "gpu_memory_gb": used.memory / 1e9}
        for name, value in figures.items():
            if value:
                self._log(name, value)
        return rate, wait / seconds, used

    def _log(self, name: str, value: float) -> None:
        self.trainer.metrics.append(Metric(self.trainer.stage, self.trainer.nimg, name, value))

    def _asked_so_far(self) -> tuple[float, float]:
        """CPU seconds that this process's requests have cost the pool so far, and seconds that it waited for it."""
        return (self.pool.cpu_seconds, self.pool.wait_seconds) if self.pool else (0.0, 0.0)
