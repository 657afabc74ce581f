"""The teacher pool as the driver sees it: starts and watches replicas, and changes their number with their queues."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from msd_ray import own_code
from msd_ray.cluster.pool.autoscaling import QueueReading, replicas_wanted
from msd_ray.cluster.pool.replica import TeacherActor
from msd_ray.cluster.pool.replica_metrics import ReplicaMetrics
from msd_ray.diffusion import Denoiser
from msd_ray.recipes import PoolConfig, Recipe
from msd_ray.runs.teacher_cache import load_teacher
from msd_ray.teachers import TeacherSource

LOG = logging.getLogger(__name__)
_SILENCE = 30.0  # seconds without an answer after which a replica counts as away
_FACTOR = 5  # a forward pass hangs that takes so many times as long as any did
_GRACE = 60.0  # seconds that one no longer wanted lives on, for students who do not know yet


@dataclass
class _Replica:
    """One actor. question: Ray's reference to the metrics that were requested at `asked`. metrics: its last answer;
    None if there is none, or it died or fell silent since. alive: whether it has answered since it was started."""

    actor: Any
    question: Any
    asked: float
    metrics: ReplicaMetrics | None = None
    alive: bool = False


class Pool:
    """`min_replicas` to `max_replicas` teacher actors. Its owner calls `tick` every second or two; nothing here waits.

    Ray restarts an actor that dies wherever there is room; until then it is not ready. The pool ends an actor that does
    not answer, or computes one request, for far too long, so that Ray restarts it. Students send the requests that it
    had again (`TeacherPool`).
    """

    def __init__(self, config: PoolConfig, load: Callable[[torch.device], Denoiser]) -> None:
        """load: loads the teacher onto a device, whichever node it is called on."""
        self._config = config
        actor: Any = ray.remote(TeacherActor)
        env_vars = own_code.environment()
        self._make = actor.options(
            num_cpus=config.cpus,
            num_gpus=config.gpus,
            scheduling_strategy="SPREAD" if config.placement == "spread" else "DEFAULT",
            runtime_env={"env_vars": env_vars} if env_vars else None,
            max_restarts=-1,
            max_concurrency=config.max_queue + config.max_batch + 16,  # all that wait or compute, and questions
        )
        self._arguments = load, config
        self._replicas: list[_Replica] = []
        self._retired: list[tuple[float, Any]] = []  # when, and which actor
        self._readings: deque[QueueReading] = deque()
        self._resize(config.min_replicas)

    @property
    def actors(self) -> list[Any]:
        """All actors, also those that have not started yet."""
        return [r.actor for r in self._replicas]

    @property
    def replicas(self) -> list[Any]:
        """The actors to ask now: those that answered lately, or all if none has."""
        return _present(self._replicas)

    @property
    def ready(self) -> bool:
        """Whether at least one replica answered lately."""
        return any(r.metrics for r in self._replicas)

    def metrics(self) -> list[ReplicaMetrics]:
        """The metrics of the replicas that answered lately, one tick old."""
        return [r.metrics for r in self._replicas if r.metrics]

    def tick(self) -> None:
        """Reads the replicas' metrics, and starts a replica, retires one or does neither."""
        now = time.monotonic()
        for replica in self._replicas:
            _hear(replica, now, self._config.silence_seconds)
        self._readings.append(self._reading(now))
        while len(self._readings) > 1 and self._readings[1].seconds <= now - self._config.scale_seconds:
            self._readings.popleft()
        self._resize(replicas_wanted(self._readings, self._config))
        self._bury(now)

    def stop(self) -> None:
        """Ends all replicas and frees what they hold."""
        for actor in [r.actor for r in self._replicas] + [actor for _, actor in self._retired]:
            ray.kill(actor)
        self._replicas, self._retired = [], []

    def _reading(self, now: float) -> QueueReading:
        ready = self.metrics()
        return QueueReading(
            now,
            replicas=len(self._replicas),
            used=sum(m.forwards > 0 for m in ready),
            delay_ms=fmean([m.queue_p50_ms for m in ready] or [0.0]),
            busy=sum(m.utilisation for m in ready),
        )

    def _resize(self, wanted: int) -> None:
        while len(self._replicas) < wanted:
            actor = self._make.remote(*self._arguments)
            self._replicas.append(_Replica(actor, actor.metrics.remote(), time.monotonic()))
        while len(self._replicas) > wanted:  # the newest goes first: the oldest is then in everybody's list
            self._retired.append((time.monotonic(), self._replicas.pop().actor))

    def _bury(self, now: float) -> None:
        """Ends replicas that were retired long enough ago. If a student still asks one, another will answer."""
        while self._retired and self._retired[0][0] < now - _GRACE:
            ray.kill(self._retired.pop(0)[1])


@contextmanager
def running_pool(recipe: Recipe, teacher: TeacherSource, needed: bool) -> Iterator[Pool | None]:
    """The recipe's pool, for this block; None where it is not needed."""
    pool = Pool(recipe.cluster.pool, partial(load_teacher, teacher, training=recipe.training)) if needed else None
    try:
        yield pool
    finally:
        if pool:
            pool.stop()


class BorrowedPool:
    """A pool that another process started. This process only asks its actors, and ends those that hang."""

    def __init__(self, actors: Sequence[Any], silence: float) -> None:
        """silence: seconds after which a replica that does not answer is ended."""
        self._replicas = [_Replica(actor, actor.metrics.remote(), time.monotonic()) for actor in actors]
        self._silence = silence

    @property
    def replicas(self) -> list[Any]:
        return _present(self._replicas)

    @property
    def ready(self) -> bool:
        """Whether at least one replica answered lately."""
        return any(r.metrics for r in self._replicas)

    def tick(self) -> None:
        for replica in self._replicas:
            _hear(replica, time.monotonic(), self._silence)


def _present(replicas: list[_Replica]) -> list[Any]:
    return [r.actor for r in replicas if r.metrics] or [r.actor for r in replicas]


def _hear(replica: _Replica, now: float, silence: float) -> None:
    """Reads the answer to the last question, if there is one, and asks the next. Ends a process that hangs."""
    answered, _ = ray.wait([replica.question], timeout=0)
    if not answered:
        if now - replica.asked > _SILENCE:
            replica.metrics = None
        if replica.alive and now - replica.asked > silence:
            _end(replica, f"has not answered for {now - replica.asked:.0f} s")
        return
    try:
        replica.metrics, replica.alive = ray.get(replica.question), True
    except RayError:  # dead or on its way back
        replica.metrics, replica.alive = None, False
    replica.question, replica.asked = replica.actor.metrics.remote(), now
    if (m := replica.metrics) and m.computing > max(silence, _FACTOR * m.longest):
        _end(replica, f"has computed for {m.computing:.0f} s at one request")


def _end(replica: _Replica, why: str) -> None:
    """Ends the actor's process; Ray starts another."""
    LOG.warning("a replica of the teacher %s; its process is ended and another one started", why)
    replica.metrics, replica.alive = None, False
    ray.kill(replica.actor, no_restart=False)
