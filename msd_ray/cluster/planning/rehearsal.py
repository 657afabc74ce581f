"""The driver on simulated slots, to see how a run would go. No Ray in here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from msd_ray.cluster.driver import Driver, Terms
from msd_ray.cluster.planning.contention import Effort
from msd_ray.cluster.planning.layout import Layout
from msd_ray.cluster.planning.pacing import Pacing
from msd_ray.cluster.planning.simulation import SimulatedSlots
from msd_ray.cluster.progress import StudentState
from msd_ray.cluster.slots import NoPool
from msd_ray.cluster.work import ScheduledTask
from msd_ray.errors import UserError
from msd_ray.profiling.timing import StageTiming, Timing
from msd_ray.recipes import ClusterConfig
from msd_ray.training.student_spec import StudentSpec

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


TICK = 3600.0
"""Seconds of the virtual clock between two looks around where nothing happens."""


@dataclass(frozen=True)
class RehearsalResult:
    """seconds: from the first slot that was asked for to the last piece's end. slots: most at a time. slot_seconds: of
    all that were up. asked: the most teacher replicas, at speed 1, that students could have kept busy at a time.
    held, ended: by piece, the seconds it was in a slot, and the second it ended."""

    seconds: float = 0.0
    slots: int = 0
    slot_seconds: float = 0.0
    asked: float = 0.0
    held: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)


def rehearse(work: Sequence[ScheduledTask], pacing: Pacing, layout: Layout, config: ClusterConfig) -> RehearsalResult:
    """Raises UserError where they would never end, since the last node leaves before."""
    slots = SimulatedSlots(layout.nodes, pacing, layout.incidents, layout.replicas, TICK)
    clerk = _Recorder(slots, len(work))
    Driver(work, slots, Terms(config.policy, config.max_slots, config.max_failures), clerk, NoPool()).run()
    return RehearsalResult(
        slots.now(),
        clerk.most,
        clerk.slot_seconds,
        slots.asked,
        clerk.held,
        [clerk.ended[i] for i in range(len(work))],
    )


class _Recorder:
    """Adds up who held which slot for how long."""

    def __init__(self, slots: SimulatedSlots, pieces: int) -> None:
        self._slots, self._counted = slots, slots.now()
        self._up: set[int] = set()
        self._holding: list[int] = []
        self.most, self.slot_seconds = 0, 0.0
        self.held, self.ended = [0.0] * pieces, dict[int, float]()

    def watch(self, statuses: list[StudentState]) -> None:
        self._count()
        self._holding = [i for i, s in enumerate(statuses) if s.slot is not None]
        for i, status in enumerate(statuses):
            if status.state == "done":
                self.ended.setdefault(i, self._counted)
        unfinished = len(statuses) - len(self.ended)
        if unfinished and self._slots.over:
            raise UserError(
                f"{unfinished} of {len(statuses)} would never end: no node that has room for them stays long enough; "
                f"describe more nodes, or such as leave later"
            )

    def event(self, kind: str, **facts: Any) -> None:
        self._count()
        if kind == "slot up":
            self._up.add(facts["slot"])
            self.most = max(self.most, len(self._up))
        elif kind == "slot gone":
            self._up.discard(facts["slot"])

    def _count(self) -> None:
        """Adds the time since the last event."""
        now = self._slots.now()
        passed, self._counted = now - self._counted, now
        self.slot_seconds += passed * len(self._up)
        for piece in self._holding:
            self.held[piece] += passed
