"""What the pieces of a plan take a simulated slot, by what was measured of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from msd_ray.cluster.planning.sharing import Effort
from msd_ray.runs.trial import StageTiming, Timing
from msd_ray.training.spec import StudentSpec

RAY_START = 2.0
"""CPU seconds that Ray adds to the start of a process (1.3 to 2.1 s with Ray 2.60, two CPUs)."""


@dataclass(frozen=True)
class StudentPacing:
    """The pacing of a plan's students. specs: in the order of their numbers. workers: processes that each of them has,
    taken to share its work without loss."""

    specs: Sequence[StudentSpec]
    timing: Timing
    workers: int = 1

    @property
    def start(self) -> float:
        return self.timing.start + RAY_START

    @property
    def open(self) -> float:
        return self.timing.open

    @property
    def segment(self) -> float:
        return self.timing.segment

    def training(self, student: int, begin: int, images: int) -> Effort:
        spec, total, at = self.specs[student], Effort(0.0), 0
        for name, stage in spec.stages.items():
            n = min(begin + images, at + stage.images) - max(begin, at)
            if n > 0:
                total += _effort(self.timing.stages[name], n / self.workers, self.workers, self._devices(spec))
            at += stage.images
        return total

    def _devices(self, spec: StudentSpec) -> int:
        return spec.training.threads if self.timing.device == "cpu" else 1


def _effort(timing: StageTiming, images: float, workers: int, devices: int) -> Effort:
    """images: of each worker. devices: that each keeps busy while it does not wait."""
    alone = timing.own + timing.waits
    return Effort(images * alone, workers * devices * timing.own / alone, workers * timing.teacher / alone)


@dataclass(frozen=True)
class TeacherPacing:
    """The pacing of the teacher's own training. devices: that it keeps busy."""

    timing: Timing
    devices: int
    open: float = 0.0
    segment: float = 0.0

    @property
    def start(self) -> float:
        return self.timing.start + RAY_START

    def training(self, student: int, begin: int, images: int) -> Effort:
        return Effort(images * self.timing.teacher, self.devices)
