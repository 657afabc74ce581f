"""What the driver's process does beside driving: journals, the status file, the lease, the pool, metrics."""

import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean
from typing import Any, Protocol

from msd_ray.cluster.meters import Meters
from msd_ray.cluster.pool.measuring import ReplicaMetrics
from msd_ray.cluster.pool.pool import Pool
from msd_ray.cluster.status import Status
from msd_ray.errors import CorruptError, UserError
from msd_ray.runs.journal import Journal
from msd_ray.runs.standing import Standing, StudentStanding, read_standing, write_standing
from msd_ray.storage import Store

LOG = logging.getLogger(__name__)
WRITE = 3.0
"""Seconds between two writings of the status file and the journals; more where writing takes long."""
SHARE = 0.05
"""Of the driver's time that writing may take."""
WORK = 1.0
"""Seconds between two rounds of chores."""


class Listener(Protocol):
    """Who watches a run."""

    def note(self, line: str) -> None: ...

    def watch(self, statuses: list[Status]) -> None: ...


class Board:
    """Told by the driver what happens, it tells the run directory, Prometheus and the listener."""

    def __init__(self, store: Store, price: float, listener: Listener, chores: list[Callable[[], None]]) -> None:
        """price: of a slot per hour. chores: done every second or so; what one raises ends the run."""
        self._store, self._price, self._listener, self._chores = store, price, listener, chores
        self._events = Journal(store, "events.jsonl")
        self._students: dict[str, Journal] = {}
        self._meters = Meters()
        before = _before(store)
        self._seconds = {s.name: s.seconds for s in before.students} if before else {}
        self._slot_seconds = before.slot_seconds if before else 0.0
        self._up: set[int] = set()
        self._seen: list[Status] = []
        self._looked, self._worked, self._due = time.monotonic(), 0.0, 0.0
        self._pool: Pool | None = None
        self._figures: dict[str, float] = {}

    def note(self, line: str) -> None:
        self._listener.note(line)

    def begin(self) -> None:
        """A driver begins, with work of its own."""
        self._seen, self._looked = [], time.monotonic()
        self._up.clear()

    def show(self, pool: Pool) -> None:
        """Writes down how the pool does as well, from now on."""
        self._pool = pool

    def event(self, kind: str, **facts: Any) -> None:
        self._events.add(kind, **facts)
        self._meters.event(kind, facts)
        if kind == "slot up":
            self._up.add(facts["slot"])
        elif kind == "slot gone":
            self._up.discard(facts["slot"])
        self._meters.slots(len(self._up))

    def watch(self, statuses: list[Status]) -> None:
        self._count(statuses)
        for i, status in enumerate(statuses):
            if i >= len(self._seen) or _has_news(status, self._seen[i]):
                self._log(status)
        self._seen = statuses
        self._listener.watch(statuses)
        if time.monotonic() - self._worked > WORK:
            self._worked = time.monotonic()
            for chore in self._chores:
                chore()
        if time.monotonic() > self._due:
            self.write()

    def write(self, finished: bool = False) -> None:
        """Writes down how the run stands. A storage that refuses is only warned of: no student needs this."""
        start = time.monotonic()
        try:
            for journal in [self._events, *self._students.values()]:
                journal.write()
            write_standing(self._store, self._standing(finished))
        except UserError as error:
            LOG.warning("%s", error)
        end = time.monotonic()
        self._due = end + max(WRITE, (end - start) / SHARE)

    def _standing(self, finished: bool) -> Standing:
        students = [_student(status, self._seconds.get(status.name, 0.0)) for status in self._seen]
        slots = 0 if finished else len(self._up)
        driver = f"{socket.gethostname()}:{os.getpid()}"
        if self._pool and self._pool.ready:
            self._figures = _figures(self._pool.metrics())
        return Standing(time.time(), driver, finished, slots, self._slot_seconds, self._price, students, self._figures)

    def _count(self, statuses: list[Status]) -> None:
        """Adds the time since the last look to the students that hold a slot, and to the slots."""
        now = time.monotonic()
        passed, self._looked = now - self._looked, now
        self._slot_seconds += passed * len(self._up)
        for status in statuses:
            if status.slot is not None:
                self._seconds[status.name] = self._seconds.get(status.name, 0.0) + passed

    def _log(self, status: Status) -> None:
        """A line in the student's own journal for each segment, and each change of state."""
        name = status.name
        if name not in self._students:
            self._students[name] = Journal(self._store.child("logs"), f"{name.replace(' ', '-')}.jsonl")
        facts: dict[str, Any] = {"restarts": status.restarts, "slot": status.slot}
        if p := status.progress:
            facts |= {"stage": p.stage, "nimg": p.nimg, "images_per_second": p.images_per_second, "loss": p.loss}
            facts |= {"begin": p.begin, "waited": p.waited, f"fid@{p.fid_samples}": p.fid}
            self._meters.progress(name, p)
        self._students[name].add(status.state, **facts)


def _has_news(status: Status, before: Status) -> bool:
    """Whether more than the way to the next checkpoint has changed."""
    return status is not before and replace(status, live=None) != replace(before, live=None)


def _figures(replicas: list[ReplicaMetrics]) -> dict[str, float]:
    """Of the replicas of the pool that answered lately, together."""
    return {
        "replicas": len(replicas),
        "images": sum(r.images for r in replicas),
        "cpu_seconds": sum(r.cpu_seconds for r in replicas),
        "utilisation": fmean(r.utilisation for r in replicas),
        "queue_p50_ms": fmean(r.queue_p50_ms for r in replicas),
        "queue_p99_ms": max(r.queue_p99_ms for r in replicas),
        "batch": fmean(r.batch for r in replicas),
    }


def _before(store: Store) -> Standing | None:
    """What earlier drivers of the run wrote down, if it can be read."""
    try:
        return read_standing(store)
    except (UserError, CorruptError):
        return None


def _student(status: Status, seconds: float) -> StudentStanding:
    p = status.progress
    return StudentStanding(
        name=status.name,
        state=status.doing,
        stage=p.stage if p else "",
        nimg=p.nimg if p else 0,
        images=status.images,
        images_per_second=p.images_per_second if p else 0.0,
        waited=p.waited if p else 0.0,
        restarts=status.restarts,
        seconds=seconds,
        quality=p.quality if p else "",
        error=status.error,
    )
