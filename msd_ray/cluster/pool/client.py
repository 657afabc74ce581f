"""The differentiable stand-in for the teacher that students ask; the teacher itself is in other processes."""

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from torch import Tensor

from msd_ray.cluster.pool.batching import QueueFullError, ReplicaError, Reply
from msd_ray.cluster.pool.wire import Array, pack, pack_half, unpack
from msd_ray.errors import TrainingError
from msd_ray.recipes import PoolConfig
from msd_ray.teachers import Answer

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds
_SLOW = 30.0  # seconds without an answer after which another replica is asked as well


@dataclass(frozen=True)
class PendingRequest:
    """A sent request, with all that is needed to send it again. reference: Ray's, to the Reply. replica: where it
    is."""

    kind: str
    arrays: tuple[Array, ...]
    reference: Any
    replica: Any


class TeacherPool:
    """A denoiser whose calls run in a pool. Where x_t requires a gradient, backward asks the pool for the
    vector-Jacobian product of the same call, so an objective cannot tell it from a local teacher.

    Requests go directly to the replicas, in turn. If one is dead, unreachable, full, silent or answers with an error,
    the next one is asked: replicas are stateless, so the answer is the same.

    requests: answered so far. cpu_seconds: their cost in the pool. wait_seconds: how long the student waited for them.
    """

    def __init__(self, config: PoolConfig, first: int = 0) -> None:
        """first: the replica to begin with, so that many students do not all begin with the same one."""
        self._config, self._next = config, first
        self._pack = pack_half if config.wire == "bf16" else pack
        self._replicas: list[Any] = []
        self._size = 0  # of the pool; silent replicas are asked no more
        self.requests = 0
        self.cpu_seconds = self.wait_seconds = 0.0

    def use(self, replicas: list[Any]) -> None:
        """Uses these teacher actors from now on; at least one."""
        self._replicas, self._size = list(replicas), len(replicas)

    def __call__(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        return self.submit(x_t, sigma, condition).result()

    def submit(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Answer:
        """Sends the request and returns at once. The answer's result raises the teacher's MsdRayErrors as they are, and
        TrainingError if all replicas, and at least two processes, met another error, or if no replica answered for
        `retry_seconds`."""
        return _Pending(self, x_t, sigma, condition, self.ask("denoise", x_t, sigma, condition))

    def ask(self, kind: str, x_t: Tensor, sigma: Tensor, condition: Tensor, *cotangent: Tensor) -> PendingRequest:
        """Sends one request: "denoise", or "vjp" with a cotangent."""
        images = [self._pack(t) for t in (x_t, *cotangent)]
        arrays = (images[0], pack(sigma), pack(condition), *images[1:])
        return self._send(kind, arrays)

    def collect(self, asked: PendingRequest, like: Tensor) -> Tensor:
        """The answer, on the device and in the type of `like`. Waits for it, and asks again if that may help."""
        start = time.monotonic()
        reply = self._reply(asked)
        self.wait_seconds += time.monotonic() - start
        self.requests += 1
        self.cpu_seconds += reply.cpu_seconds
        return unpack(reply.array).to(like)

    def _send(self, kind: str, arrays: tuple[Array, ...]) -> PendingRequest:
        replica = self._replicas[self._next % len(self._replicas)]
        self._next += 1
        return PendingRequest(kind, arrays, getattr(replica, kind).remote(*arrays), replica)

    def _reply(self, asked: PendingRequest) -> Reply:
        """The first answer of all replicas that have the request by now."""
        under_way, pauses, failed = {asked.reference: asked.replica}, self._pauses(), dict[str, str]()
        while True:
            ready, _ = ray.wait(list(under_way), timeout=_SLOW)
            for reference in ready:
                del under_way[reference]
                try:
                    reply: Reply = ray.get(reference)
                    return reply
                except RayError as error:
                    self._refuse_final(error, failed)
                    if not under_way:
                        self._pause(pauses, error)
            if not under_way or (not ready and self._avoid(under_way.values())):
                again = self._send(asked.kind, asked.arrays)
                under_way[again.reference] = again.replica

    def _avoid(self, silent: Collection[Any]) -> bool:
        """Avoids these replicas until the next `use`; returns whether any replica is left. The owner of the pool ends
        those that hang."""
        others = [replica for replica in self._replicas if replica not in silent]
        self._replicas = others or self._replicas
        return bool(others)

    def _refuse_final(self, error: RayError, failed: dict[str, str]) -> None:
        """Raises if asking again would not help. failed: by process, why it could not answer this request."""
        cause = error.cause if isinstance(error, RayTaskError) else None
        if isinstance(cause, ReplicaError):
            failed[cause.process] = cause.reason
            if len(failed) >= max(2, self._size):
                raise TrainingError(f"every replica of the teacher answered with an error: {cause.reason}") from None
        elif cause is not None and not isinstance(cause, QueueFullError):
            raise error

    def _pause(self, pauses: Iterator[float], error: RayError) -> None:
        pause = next(pauses, None)
        if pause is None:
            raise self._no_answer(error) from None
        time.sleep(pause)

    def _pauses(self) -> Iterator[float]:
        """Seconds to wait before each further try: none until every replica was asked, then longer and longer, until
        `retry_seconds` after the first."""
        end = time.monotonic() + self._config.retry_seconds
        yield from repeat(0.0, len(self._replicas) - 1)
        pause = _FIRST_PAUSE
        while time.monotonic() + pause < end:
            yield pause
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _no_answer(self, error: RayError) -> TrainingError:
        c = self._config
        reason, remedy = type(error).__name__, f"make room for one ({c.cpus:g} CPU, {c.gpus:g} GPU)"
        if isinstance(error, QueueFullError):
            reason, remedy = "their queues are full", "raise cluster.pool.max_replicas or cluster.pool.max_queue"
        return TrainingError(
            f"no teacher replica answered for {c.retry_seconds:g} s ({reason}); {remedy} and give the command again"
        )


@dataclass(frozen=True)
class _Pending:
    pool: TeacherPool
    x_t: Tensor
    sigma: Tensor
    condition: Tensor
    asked: PendingRequest

    def result(self) -> Tensor:
        x0: Tensor = _Remote.apply(self.x_t, self)  # type: ignore[no-untyped-call]
        return x0


class _Remote(torch.autograd.Function):
    """The teacher as a function of x_t, computed elsewhere both ways."""

    @staticmethod
    def forward(ctx: Any, x_t: Tensor, pending: _Pending) -> Tensor:
        ctx.pending = pending
        return pending.pool.collect(pending.asked, x_t)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        p: _Pending = ctx.pending
        asked = p.pool.ask("vjp", p.x_t, p.sigma, p.condition, cotangent)
        return p.pool.collect(asked, cotangent), None
