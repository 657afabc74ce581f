"""How long a plan takes and what it costs on some nodes. No Ray in here."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from msd_ray.cluster.planning.contention import Replicas
from msd_ray.cluster.planning.layout import HOUR, lay_out
from msd_ray.cluster.planning.rehearsal import RehearsalResult, StudentPacing, TeacherPacing, rehearse
from msd_ray.cluster.planning.simulation import NoTask
from msd_ray.cluster.work import ScheduledTask, scheduled
from msd_ray.profiling.timing import Timing
from msd_ray.recipes import ClusterConfig
from msd_ray.runs.compatibility import teachers_sampling
from msd_ray.runs.nodes import NodeKind
from msd_ray.runs.plan import Plan, most_at_a_time
from msd_ray.runs.teacher_cache import REPORTS

BUSY = 0.8
"""The share of its time in which a replica may compute; above it requests queue."""


@dataclass(frozen=True)
class Upcoming:
    """What comes before the students. teacher: whether it has to be trained. pairs: of the teacher that have to be
    made. ray: seconds in which Ray itself starts and ends, where no cluster is there already."""

    teacher: bool = False
    pairs: int = 0
    ray: float = 0.0


@dataclass(frozen=True)
class StudentForecast:
    """seconds: it holds a slot. done_after: seconds from the beginning of the run to its end."""

    name: str
    images: int
    seconds: float
    done_after: float

    @property
    def images_per_second(self) -> float:
        """While it holds a slot, checkpoints and probes included."""
        return self.images / self.seconds


@dataclass(frozen=True)
class Forecast:
    """seconds: of the whole run; teacher_seconds and pairs_seconds of these come before the students. slots: most
    students at a time. replicas: of the teacher pool, as recipe and nodes have it; replicas_needed: so that no student
    waits. slot_hours: the teacher's training included. gpu_hours: of slots and pool. cost: of the nodes while they are
    there, where any has a price; else of the slots."""

    seconds: float
    teacher_seconds: float
    pairs_seconds: float
    slots: int
    replicas: int
    replicas_needed: int
    slot_hours: float
    gpu_hours: float
    cost: float
    students: list[StudentForecast]

    def to_json(self) -> dict[str, Any]:
        students = [{**asdict(s), "images_per_second": s.images_per_second} for s in self.students]
        return {**asdict(self), "students": students}


def forecast(plan: Plan, timing: Timing, nodes: Sequence[NodeKind], ahead: Upcoming = Upcoming()) -> Forecast:
    """Of a run from its beginning. Raises UserError where it would never end on these nodes."""
    config, workers = plan.cluster, plan.cluster.workers_per_student[0]
    pacing = StudentPacing([student.spec for student in plan.students], timing, workers)
    taught = _teach(plan, timing, nodes) if ahead.teacher else RehearsalResult()
    layout = lay_out(most_at_a_time(plan.students), config, nodes, (ahead.ray + taught.seconds) / HOUR)
    pool = layout.replicas
    paired = _pair(plan, timing, ahead.pairs, pool)
    before = ahead.ray + taught.seconds + paired + (pacing.start if pool.on else 0.0)
    every = plan.recipe.training.checkpoint_every
    work = scheduled(plan.students, [NoTask()] * len(plan.students), every)
    trained = rehearse(work, pacing, layout, config)
    seconds, slot_hours = before + trained.seconds, (taught.slot_seconds + trained.slot_seconds) / HOUR
    replicas = sum(pool.on.values())
    pool_hours = replicas * (seconds - ahead.ray - taught.seconds) / HOUR
    return Forecast(
        seconds=seconds,
        teacher_seconds=taught.seconds,
        pairs_seconds=paired,
        slots=trained.slots,
        replicas=replicas,
        replicas_needed=_needed(trained.asked, pool),
        slot_hours=slot_hours,
        gpu_hours=slot_hours * workers * config.gpus_per_student + pool_hours * config.pool.gpus,
        cost=_cost(config, nodes, seconds / HOUR, slot_hours),
        students=[
            StudentForecast(j.name, j.spec.own_images, held, before + ended)
            for j, held, ended in zip(plan.students, trained.held, trained.ended, strict=True)
        ],
    )


def _teach(plan: Plan, timing: Timing, nodes: Sequence[NodeKind]) -> RehearsalResult:
    """The teacher's own training, which has the nodes to itself."""
    config = plan.recipe.teacher
    piece = ScheduledTask("teacher", config.images, config.images // REPORTS + 1, NoTask())
    devices = config.threads if timing.device == "cpu" else 1
    alone = replace(plan.cluster, teacher="local", workers_per_student=(1, 1))
    return rehearse([piece], TeacherPacing(timing, devices), lay_out(1, alone, nodes), alone)


def _pair(plan: Plan, timing: Timing, pairs: int, pool: Replicas) -> float:
    """Seconds in which the pool makes pairs; one is started for it where students need none."""
    replicas = pool.capacity if pool.on else plan.cluster.pool.min_replicas
    return pairs * teachers_sampling(plan.recipe).nfe * timing.answer / replicas


def _needed(asked: float, pool: Replicas) -> int:
    """Replicas as fast as those there are; at least one where there is a pool."""
    count = sum(pool.on.values())
    return max(1, math.ceil(asked / BUSY * count / pool.capacity - 1e-9)) if count else 0


def _cost(config: ClusterConfig, nodes: Sequence[NodeKind], hours: float, slot_hours: float) -> float:
    if not any(node.price for node in nodes):
        return slot_hours * config.price
    return sum(node.price * node.hours_until(hours) for node in nodes)
