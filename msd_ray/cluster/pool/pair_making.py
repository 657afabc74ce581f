"""Makes the teacher's pairs, if an objective needs any: the replicas of the pool do so part by part."""

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from msd_ray.cluster.pool.batching import ReplicaError
from msd_ray.cluster.pool.pool import running_pool
from msd_ray.cluster.silence import Silence
from msd_ray.cluster.slots import TeacherReplicas
from msd_ray.errors import MsdRayError, TrainingError
from msd_ray.runs.disk_needs import check_cache
from msd_ray.runs.pairs import PART, has_part, pairs_folder, parts_of
from msd_ray.runs.plan import Plan, StudentPlan
from msd_ray.storage import Store
from msd_ray.teachers import TeacherSource

LOG = logging.getLogger(__name__)
TICK = 1.0
"""Seconds between two ticks of the pool."""


def make_pairs(
    plan: Plan,
    students: list[StudentPlan],
    pool: TeacherReplicas | None,
    teacher: TeacherSource,
    cache: Store,
    note: Callable[[str], None],
) -> tuple[Store, list[int]] | None:
    """Makes the missing ones of the teacher's pairs, if an objective needs any, and returns their place. pool: makes
    them; if there is none, one is started. Raises TrainingError if they cannot be made."""
    if not any(student.spec.objective(stage).needs.pairs for student in students for stage in student.spec.stages):
        return None
    store, parts = pairs_folder(cache, plan), parts_of(plan)
    missing = [part for part in parts if not has_part(store, part)]
    if missing:
        check_cache(cache)
    with running_pool(plan.recipe, teacher, needed=bool(missing) and pool is None) as own:
        if maker := pool or own:
            for left in _Making(plan, store, maker, missing).lefts():
                note(f"teacher's pairs: {(len(parts) - left) * PART} of {len(parts) * PART}")
    return store, parts


class _Making:
    """The parts that replicas are making. If a replica fails at a part, the next one gets it; if no replica finishes
    one for far too long, all are ended, and Ray starts others."""

    def __init__(self, plan: Plan, store: Store, pool: TeacherReplicas, parts: list[int]) -> None:
        self._plan, self._store, self._pool = plan, store, pool
        self._turns, self._hung = itertools.count(), 0
        self._under_way: dict[Any, int] = {}  # Ray's reference -> the part
        self._errors: dict[int, dict[str, str]] = {part: {} for part in parts}  # by process
        self._silence = Silence(plan.cluster.silence_seconds, time.monotonic())
        for part in parts:
            self._give(part)

    def lefts(self) -> Iterator[int]:
        """Yields, after each part that is made, how many are left."""
        while self._under_way:
            self._silence.begin(0, time.monotonic())
            while not (ready := ray.wait(list(self._under_way), timeout=TICK)[0]):
                self._look_after()
            part = self._under_way.pop(ready[0])
            try:
                ray.get(ready[0])
            except RayError as error:
                self._refuse_final(part, error)
                self._give(part)
                continue
            self._silence.end(0, time.monotonic())
            self._hung = 0
            yield len(self._under_way)

    def _give(self, part: int) -> None:
        replicas = self._pool.replicas
        replica = replicas[next(self._turns) % len(replicas)]
        self._under_way[replica.make_pairs.remote(self._store, part, self._plan)] = part

    def _look_after(self) -> None:
        self._pool.tick()
        for suspect in self._silence.suspects(time.monotonic(), excused=not self._pool.ready):
            LOG.warning("the teacher's pairs: %s", suspect.reason)
            if suspect.lost:
                self._start_anew(suspect.reason)

    def _start_anew(self, reason: str) -> None:
        self._hung += 1
        if self._hung > self._plan.cluster.max_failures:
            raise TrainingError(f"the teacher's pairs could not be made: {reason}, {self._hung} times in a row")
        for replica in self._pool.replicas:
            ray.kill(replica, no_restart=False)  # Ray gives it its parts again
        self._silence.begin(0, time.monotonic())

    def _refuse_final(self, part: int, error: RayError) -> None:
        """Raises TrainingError if another try would not help."""
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, MsdRayError):
            raise TrainingError(f"the teacher's pairs could not be made: {cause}") from None
        process, reason = (cause.process, cause.reason) if isinstance(cause, ReplicaError) else ("", str(cause))
        self._errors[part][process] = reason
        if len(self._errors[part]) >= max(2, len(self._pool.replicas)):
            raise TrainingError(f"the teacher's pairs could not be made: every replica met an error: {reason}")
