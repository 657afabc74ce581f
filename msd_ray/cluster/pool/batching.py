"""Requests that wait for a teacher's one computing thread, and which of them share a forward pass. Knows no Ray."""

import asyncio
import time
from dataclasses import dataclass
from functools import cached_property

from msd_ray.cluster.pool.arrays import Array
from msd_ray.recipes import PoolConfig


class QueueFullError(Exception):
    """As many requests wait at this replica as may. Another may have room, or this one later."""


class ReplicaError(Exception):
    """The replica met an error that is not ours, and its process ends. Another one may do better.

    process: an id of the process. reason: one line.
    """

    def __init__(self, process: str, reason: str) -> None:
        super().__init__(process, reason)
        self.process, self.reason = process, reason


@dataclass(frozen=True)
class Reply:
    """array: x0 or a vector-Jacobian product, [B, ...]. cpu_seconds: what it cost the teacher's computing thread."""

    array: Array
    cpu_seconds: float


@dataclass(eq=False)
class Request:
    """kind: denoise or vjp. arrays: its arguments, each [B, ...]. arrived: by `time.monotonic`."""

    kind: str
    arrays: tuple[Array, ...]
    arrived: float
    answer: asyncio.Future[Reply]

    @cached_property
    def samples(self) -> int:
        return len(self.arrays[0]) if self.arrays[0].ndim else 1

    @cached_property
    def form(self) -> object:
        """Requests of equal form may share a forward pass. A malformed one is like no other."""
        if any(a.ndim == 0 or len(a) != self.samples for a in self.arrays):
            return self
        return self.kind, tuple((a.shape[1:], a.dtype) for a in self.arrays)


class RequestQueue:
    """First come, first served; to be used in one event loop. Those whose askers gave up are left out."""

    def __init__(self, config: PoolConfig) -> None:
        self._config = config
        self._requests: list[Request] = []
        self._arrival = asyncio.Event()

    def put(self, kind: str, arrays: tuple[Array, ...]) -> Request:
        """Raises QueueFullError where too many wait already."""
        if len(self.waiting()) >= self._config.max_queue:
            raise QueueFullError
        request = Request(kind, arrays, time.monotonic(), asyncio.get_running_loop().create_future())
        self._requests.append(request)
        self._arrival.set()
        return request

    def waiting(self) -> list[Request]:
        """The oldest first."""
        self._requests = [r for r in self._requests if not r.answer.cancelled()]
        return self._requests

    async def next(self) -> list[Request]:
        """The requests of the next forward pass: the oldest, and where requests are joined those that join it."""
        while (left := self._patience()) is None or left > 0:
            self._arrival.clear()
            try:
                await asyncio.wait_for(self._arrival.wait(), left)
            except TimeoutError:
                break
        return self._take() or await self.next()

    def _patience(self) -> float | None:
        """Seconds that the next forward pass may still wait for company; None where there is nothing to compute."""
        waiting = self.waiting()
        if not waiting:
            return None
        together = sum(r.samples for r in waiting if r.form == waiting[0].form)
        if self._config.deterministic or together >= self._config.max_batch:
            return 0.0
        return waiting[0].arrived + self._config.max_wait_ms / 1000 - time.monotonic()

    def _take(self) -> list[Request]:
        taken: list[Request] = []
        room = self._config.max_batch
        for request in self.waiting():
            joins = not self._config.deterministic and request.form == taken[0].form if taken else True
            if joins and (request.samples <= room or not taken):
                taken.append(request)
                room -= request.samples
        self._requests = [r for r in self._requests if r not in taken]
        return taken
