"""An evaluation on a cluster: slots take its pieces as they take students."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch

from msd_ray.cluster.connect import connected, request_nodes, room_for
from msd_ray.cluster.driver import Driver, Terms
from msd_ray.cluster.idle_slots import IdleSlots
from msd_ray.cluster.monitor import Listener
from msd_ray.cluster.progress import Progress, StudentState
from msd_ray.cluster.ray_slots import RaySlots
from msd_ray.cluster.slots import NoPool
from msd_ray.cluster.work import ScheduledTask, SingleProcess
from msd_ray.errors import TrainingError, UserError
from msd_ray.recipes import ClusterConfig
from msd_ray.runs.evaluation_pieces import Complete, EvaluationPiece, OpenPiece
from msd_ray.stopping import STOP


@contextmanager
def measuring(address: str | None, listener: Listener, idle: IdleSlots | None = None) -> Iterator[Complete]:
    """Runs pieces to their end on the cluster at `address` or RAY_ADDRESS, or on a local one.

    It connects, and starts processes, only when there is a piece; the processes stay until the end of this block, or
    in `idle`.
    """
    with ExitStack() as stack:
        slots: RaySlots | None = None

        def complete(pieces: list[EvaluationPiece]) -> None:
            nonlocal slots
            cluster = pieces[0].basis.cluster
            if slots is None:
                stack.enter_context(connected(address))
                _refuse_if_too_small(cluster)
                slots = _slots(cluster, idle or stack.enter_context(IdleSlots()))
                stack.callback(slots.close)
            _complete(pieces, cluster, slots, listener)

        yield complete


def _slots(cluster: ClusterConfig, idle: IdleSlots) -> RaySlots:
    most = cluster.max_slots or 10**6
    return RaySlots(cluster.cpus_per_student, cluster.gpus_per_student, lambda: room_for(most, cluster), idle=idle)


def _complete(pieces: list[EvaluationPiece], cluster: ClusterConfig, slots: RaySlots, listener: Listener) -> None:
    """Raises TrainingError that names what failed, after the rest has finished, and Stopped."""
    work = [ScheduledTask(piece.row, piece.images, piece.images, Measurement(piece)) for piece in pieces]
    STOP.resumable = True
    terms = Terms("sequential", cluster.max_slots, cluster.max_failures, cluster.silence_seconds)
    with request_nodes(len(work), cluster), STOP.in_order():
        statuses = Driver(work, slots, terms, RowWatch(listener), NoPool()).run(lambda: STOP.asked)
        STOP.check()
    if failed := {s.name: s.error for s in statuses if s.state == "failed"}:
        reasons = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise TrainingError(f"the evaluation did not finish ({reasons}); the same command goes on")


def _refuse_if_too_small(cluster: ClusterConfig) -> None:
    if not (cluster.autoscale or room_for(1, cluster)):
        cpus, gpus = cluster.cpus_per_student, cluster.gpus_per_student
        raise UserError(
            f"a process that measures needs {cpus:g} CPUs and {gpus:g} GPUs, which the cluster has not: add nodes, or "
            f"lower evaluation.cpus or evaluation.gpus"
        )


@dataclass(frozen=True)
class Measurement:
    """A piece as a slot sees it."""

    piece: EvaluationPiece

    def open(self, known: int = 0) -> "Underway":
        return Underway(self.piece.images, self.piece.open(known))


@dataclass
class Underway(SingleProcess):
    """A piece in the process of a slot. begin, since: where and when its newest segment began."""

    images: int
    opened: OpenPiece
    begin: int = 0
    since: float = field(default_factory=time.perf_counter)

    @property
    def nimg(self) -> int:
        return self.opened.nimg

    @property
    def bytes(self) -> int:
        return self.opened.bytes

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")  # where sums are; networks are not its own

    def advance(self, images: int, replicas: list[Any], hurried: Callable[[], bool]) -> Progress:
        self.begin, self.since = self.nimg, time.perf_counter()
        self.opened.advance(hurried)
        return self.current_progress()

    def current_progress(self) -> Progress:
        rate = (self.nimg - self.begin) / max(time.perf_counter() - self.since, 1e-9)
        return Progress(self.nimg, "evaluation", rate, self.nimg >= self.images, begin=self.begin)


class RowWatch:
    """Reports the progress of rows to the listener: a row may have many pieces."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def watch(self, statuses: list[StudentState]) -> None:
        names = dict.fromkeys(status.name for status in statuses)
        self._listener.watch([_together(name, [s for s in statuses if s.name == name]) for name in names])

    def event(self, kind: str, **facts: Any) -> None:
        """Does nothing: the students' states say enough."""


def _together(name: str, pieces: list[StudentState]) -> StudentState:
    seen = [(p.live or p.progress, p.slot is not None) for p in pieces]
    images, nimg = sum(p.images for p in pieces), sum(s.nimg for s, _ in seen if s)
    running = [s.images_per_second for s, runs in seen if s and runs]
    before = [s.images_per_second for s, runs in seen if s and not runs]
    done = all(p.state == "done" for p in pieces)
    stands = Progress(nimg, "evaluation", sum(running) or fmean(before or [0.0]), done)
    return StudentState(
        name,
        images,
        "done" if done else "failed" if any(p.state == "failed" for p in pieces) else "measuring",
        progress=stands if done else None,
        live=stands if nimg and not done else None,  # which is told now and then only
        restarts=sum(p.restarts for p in pieces),
        error="; ".join(dict.fromkeys(p.error for p in pieces if p.error)),
        slot=next((p.slot for p in pieces if p.slot is not None), 0 if nimg else None),  # between two pieces as in one
    )
