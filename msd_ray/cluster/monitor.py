"""The monitor: what the driver's process does besides scheduling. Journals, status file, lease, pool, metrics."""

import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean
from typing import Any, Protocol

from msd_ray.cluster.pool.pool import Pool
from msd_ray.cluster.pool.replica_metrics import ReplicaMetrics
from msd_ray.cluster.progress import StudentState
from msd_ray.cluster.prometheus import RunMetrics
from msd_ray.cluster.writer import Writer
from msd_ray.errors import CorruptError, UserError
from msd_ray.formatting import duration
from msd_ray.runs.run_status import RunStatus, StudentStatus, read_status
from msd_ray.stopping import STOP
from msd_ray.storage import Store

WRITE = 3.0
"""Seconds between two writings of the status file and the journals."""
WORK = 1.0
"""Seconds between two rounds of chores."""


class Listener(Protocol):
    """An observer of a run, such as the terminal."""

    def note(self, line: str) -> None: ...

    def watch(self, statuses: list[StudentState]) -> None: ...


class Monitor:
    """Takes the driver's events, and passes them to the run directory, Prometheus and the listener."""

    def __init__(
        self,
        store: Store,
        price: float,
        listener: Listener,
        chores: list[Callable[[], None]],
        stopping: Callable[[], bool] = lambda: STOP.asked,
    ) -> None:
        """price: of a slot per hour. chores: called every second or so; an error in one ends the run. stopping: whether
        the driver was told to stop."""
        self._price, self._listener, self._chores = price, listener, chores
        self._writer, self._stopping = Writer(store), stopping
        self._meters = RunMetrics()
        before = _before(store)
        self._seconds = {s.name: s.seconds for s in before.students} if before else {}
        self._slot_seconds = before.slot_seconds if before else 0.0
        self._up: set[int] = set()
        self._shunned: dict[str, tuple[float, str]] = {}  # places: until when, by `time.time`, and why
        self._seen: list[StudentState] = []
        self._looked, self._worked, self._due = time.monotonic(), 0.0, 0.0
        self._pool: Pool | None = None
        self._figures: dict[str, float] = {}

    def note(self, line: str) -> None:
        self._listener.note(line)

    def begin(self) -> None:
        """A driver begins, with tasks of its own."""
        self._seen, self._looked = [], time.monotonic()
        self._up.clear()

    def show(self, pool: Pool) -> None:
        """Records the pool's figures as well, from now on."""
        self._pool = pool

    def event(self, kind: str, **facts: Any) -> None:
        self._writer.events.add(kind, **facts)
        self._meters.event(kind, facts)
        if kind == "slot up":
            self._up.add(facts["slot"])
        elif kind == "slot gone":
            self._up.discard(facts["slot"])
        elif kind == "shunned":
            self._shunned[facts["place"]] = time.time() + facts["seconds"], facts["reason"]
            self.note(f"{facts['place']} gets no students for {duration(facts['seconds'])}: {facts['reason']}")
        self._meters.slots(len(self._up))

    def watch(self, statuses: list[StudentState]) -> None:
        self._count(statuses)
        for i, status in enumerate(statuses):
            before = self._seen[i] if i < len(self._seen) else None
            if before is None or _has_news(status, before):
                self._log(status)
            elif status.live and status.live is not before.live:
                self._meters.progress(status.name, status.live, status.images)
        self._seen = statuses
        self._listener.watch(statuses)
        if time.monotonic() - self._worked > WORK:
            self._worked = time.monotonic()
            for chore in self._chores:
                chore()
        if time.monotonic() > self._due:
            self._put()

    def write(self, finished: bool = False) -> None:
        """Writes the run status, and waits until it is written."""
        self._put(finished)
        self._writer.wait()

    def _put(self, finished: bool = False) -> None:
        self._due = time.monotonic() + WRITE
        self._writer.put(self._status(finished))

    def _status(self, finished: bool) -> RunStatus:
        students = [_student(status, self._seconds.get(status.name, 0.0)) for status in self._seen]
        slots = 0 if finished else len(self._up)
        driver = f"{socket.gethostname()}:{os.getpid()}"
        if self._pool and self._pool.ready:
            self._figures = _figures(self._pool.metrics())
        return RunStatus(
            time=time.time(),
            driver=driver,
            finished=finished,
            slots=slots,
            slot_seconds=self._slot_seconds,
            price=self._price,
            students=students,
            pool=self._figures,
            stopped=self._stopping(),
            shunned={} if finished else self._shunned_now(),
        )

    def _shunned_now(self) -> dict[str, str]:
        return {place: why for place, (until, why) in self._shunned.items() if time.time() < until}

    def _count(self, statuses: list[StudentState]) -> None:
        """Adds the time since the last call to the students that hold a slot, and to the slots."""
        now = time.monotonic()
        passed, self._looked = now - self._looked, now
        self._slot_seconds += passed * len(self._up)
        for status in statuses:
            if status.slot is not None:
                self._seconds[status.name] = self._seconds.get(status.name, 0.0) + passed

    def _log(self, status: StudentState) -> None:
        """A line in the students' journal for each segment, and each change of state."""
        facts: dict[str, Any] = {"student": status.name, "restarts": status.restarts, "slot": status.slot}
        if p := status.progress:
            facts |= {"stage": p.stage, "nimg": p.nimg, "images_per_second": p.images_per_second, "loss": p.loss}
            facts |= {"begin": p.begin, "waited": p.waited, f"fid@{p.fid_samples}": p.fid}
            facts |= {"flops": p.used.flops, "mfu": p.used.mfu, "memory": p.used.memory} if p.used else {}
            self._meters.progress(status.name, p, status.images)
        self._writer.students.add(status.state, **facts)


def _has_news(status: StudentState, before: StudentState) -> bool:
    """Whether more has changed than the progress within a segment."""
    return status is not before and replace(status, live=None) != replace(before, live=None)


def _figures(replicas: list[ReplicaMetrics]) -> dict[str, float]:
    """The figures of all pool replicas that answered lately, together."""
    return {
        "replicas": len(replicas),
        "images": sum(r.images for r in replicas),
        "cpu_seconds": sum(r.cpu_seconds for r in replicas),
        "utilisation": fmean(r.utilisation for r in replicas),
        "queue_p50_ms": fmean(r.queue_p50_ms for r in replicas),
        "queue_p99_ms": max(r.queue_p99_ms for r in replicas),
        "batch": fmean(r.batch for r in replicas),
    }


def _before(store: Store) -> RunStatus | None:
    """The status that an earlier driver of the run wrote, if it can be read."""
    try:
        return read_status(store)
    except (UserError, CorruptError):
        return None


def _student(status: StudentState, seconds: float) -> StudentStatus:
    p, now = status.progress, status.newest
    used = p.used if p else None
    return StudentStatus(
        name=status.name,
        state=status.doing,
        stage=now.stage if now else "",
        nimg=now.nimg if now else status.begins,
        images=status.images,
        images_per_second=now.images_per_second if now else 0.0,
        waited=p.waited if p else 0.0,
        restarts=status.restarts,
        seconds=seconds,
        quality=status.quality,
        error=status.error,
        loss=now.loss if now and now.loss == now.loss else None,
        begins=status.begins,
        trunk=status.trunk,
        flops=used.flops if used else 0.0,
        mfu=used.mfu if used else None,
        memory=used.memory if used else 0,
    )
