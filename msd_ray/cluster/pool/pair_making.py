"""Makes the teacher's pairs, if an objective needs any: the replicas of the pool do so chunk by chunk."""

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
from msd_ray.runs.pairs import CHUNK, chunks_of, has_chunk, pairs_folder
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
    store, chunks = pairs_folder(cache, plan), chunks_of(plan)
    missing = [chunk for chunk in chunks if not has_chunk(store, chunk)]
    if missing:
        check_cache(cache)
    with running_pool(plan.recipe, teacher, needed=bool(missing) and pool is None) as own:
        if maker := pool or own:
            for left in _Making(plan, store, maker, missing).lefts():
                note(f"teacher's pairs: {(len(chunks) - left) * CHUNK} of {len(chunks) * CHUNK}")
    return store, chunks


class _Making:
    """The chunks that replicas are making. If a replica fails at a chunk, the next one gets it; if no replica finishes
    one for far too long, all are ended, and Ray starts others."""

    def __init__(self, plan: Plan, store: Store, pool: TeacherReplicas, chunks: list[int]) -> None:
        self._plan, self._store, self._pool = plan, store, pool
        self._turns, self._hung = itertools.count(), 0
        self._under_way: dict[Any, int] = {}  # Ray's reference -> the chunk
        self._errors: dict[int, dict[str, str]] = {chunk: {} for chunk in chunks}  # by process
        self._silence = Silence(plan.cluster.silence_seconds, time.monotonic())
        for chunk in chunks:
            self._give(chunk)

    def lefts(self) -> Iterator[int]:
        """Yields, after each chunk that is made, how many are left."""
        while self._under_way:
            self._silence.begin(0, time.monotonic())
            while not (ready := ray.wait(list(self._under_way), timeout=TICK)[0]):
                self._look_after()
            chunk = self._under_way.pop(ready[0])
            try:
                ray.get(ready[0])
            except RayError as error:
                self._refuse_final(chunk, error)
                self._give(chunk)
                continue
            self._silence.end(0, time.monotonic())
            self._hung = 0
            yield len(self._under_way)

    def _give(self, chunk: int) -> None:
        replicas = self._pool.replicas
        replica = replicas[next(self._turns) % len(replicas)]
        self._under_way[replica.make_pairs.remote(self._store, chunk, self._plan)] = chunk

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
            ray.kill(replica, no_restart=False)  # Ray gives it its chunks again
        self._silence.begin(0, time.monotonic())

    def _refuse_final(self, chunk: int, error: RayError) -> None:
        """Raises TrainingError if another try would not help."""
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, MsdRayError):
            raise TrainingError(f"the teacher's pairs could not be made: {cause}") from None
        process, reason = (cause.process, cause.reason) if isinstance(cause, ReplicaError) else ("", str(cause))
        self._errors[chunk][process] = reason
        if len(self._errors[chunk]) >= max(2, len(self._pool.replicas)):
            raise TrainingError(f"the teacher's pairs could not be made: every replica met an error: {reason}")
