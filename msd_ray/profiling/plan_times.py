"""How long the pieces of a plan take: tried on the hardware at hand, or counted and priced."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from statistics import median

import torch

from msd_ray.errors import TrainingError
from msd_ray.profiling.counts import StudentCount, TeacherCount
from msd_ray.profiling.rates import Rates, measure_rates
from msd_ray.profiling.step_times import try_out
from msd_ray.profiling.timing import StageTiming, Timing
from msd_ray.runs.plan import Plan, most_at_a_time
from msd_ray.runs.process import end_with_parent

TOO_SLOW_TO_TRY = 20_000_000  # parameters, on a CPU
CROWD = 2
"""Processes per CPU beyond which trying out would take longer and say no more."""


def time_plan(plan: Plan) -> Timing | None:
    """None where a network is too large to try on a CPU.

    On CPUs it is tried in as many processes at once as will train at once, but at most CROWD for each CPU: they slow
    each other down even where each has a CPU of its own, since they share caches and often cores, and more where they
    take turns.
    """
    if too_slow_to_try(plan):
        return None
    gpus = _gpus_here(plan)
    processes = 1 if gpus else _at_once(plan, os.cpu_count() or 1)
    with _processes(processes) as executor:
        return median_of(list(executor.map(try_out, [plan] * processes, [gpus] * processes)))


def rates_here(plan: Plan) -> Rates:
    """What the largest operations of the plan's largest student reach on this machine's CPUs."""
    with _processes(1) as executor:
        return executor.submit(measure_rates, plan).result()


def priced(plan: Plan, student: StudentCount, teacher: TeacherCount, rates: Rates) -> Timing:
    """What was counted at these rates. Features of a probe are left out: the samples take longer."""
    written = student.state / rates.written
    return Timing(
        device="cuda" if plan.cluster.gpus_per_student else "cpu",
        stages={name: stage.timing for name, stage in student.stages.items()},
        open=written,
        segment=written + student.probe,
        teacher=teacher.seconds,
        answer=teacher.answer,
        start=rates.start,
    )


@contextmanager
def _processes(n: int) -> Iterator[ProcessPoolExecutor]:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n, spawn, initializer=end_with_parent) as executor:
        try:
            yield executor
        except BrokenProcessPool:
            raise TrainingError("a process that tried the plan's steps was killed; is there enough memory?") from None


def too_slow_to_try(plan: Plan) -> bool:
    """Whether a network is so large that updates are not to be tried without a GPU."""
    return not _gpus_here(plan) and max(plan.largest.denoiser.parameters(), plan.teachers_parameters) > TOO_SLOW_TO_TRY


def _gpus_here(plan: Plan) -> float:
    return plan.cluster.gpus_per_student if torch.cuda.is_available() else 0.0


def _at_once(plan: Plan, cpus: int) -> int:
    """How many students of the plan train at once on so many CPUs, or as many of them as are tried."""
    cluster = plan.cluster
    most = most_at_a_time(plan.students)
    room = int(cpus / cluster.cpus_per_student) if cluster.cpus_per_student else most
    return max(1, min(CROWD * cpus, most, room, cluster.max_slots or room))


def median_of(found: list[Timing]) -> Timing:
    """Piece by piece, of timings of the same plan."""

    def of(read: Callable[[Timing], float]) -> float:
        return median(map(read, found))

    def stage(name: str) -> StageTiming:
        return StageTiming(
            own=of(lambda t: t.stages[name].own),
            teacher=of(lambda t: t.stages[name].teacher),
            waits=of(lambda t: t.stages[name].waits),
        )

    return Timing(
        device=found[0].device,
        stages={name: stage(name) for name in found[0].stages},
        open=of(lambda t: t.open),
        segment=of(lambda t: t.segment),
        teacher=of(lambda t: t.teacher),
        answer=of(lambda t: t.answer),
        start=of(lambda t: t.start),
    )
