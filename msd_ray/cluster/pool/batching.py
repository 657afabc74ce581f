"""The queue of requests for a teacher's computing thread, and the choice of those that share a forward pass. No Ray."""

import asyncio
import time
from dataclasses import dataclass
from functools import cached_property

from msd_ray.cluster.pool.wire import Array
from msd_ray.recipes import PoolConfig


class QueueFullError(Exception):
    """This replica's queue is full. Another may have room, or this one later."""


class ReplicaError(Exception):
    """The replica met an error that is not msd_ray's own, and its process ends. Another replica may not meet it.

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
        """The form of a request; requests of equal form may share a forward pass. A malformed one has a form of its
        own."""
        if any(a.ndim == 0 or len(a) != self.samples for a in self.arrays):
            return self
        return self.kind, tuple((a.shape[1:], a.dtype) for a in self.arrays)


class RequestQueue:
    """A queue, first come, first served, for use in one event loop. It drops cancelled requests."""

    def __init__(self, config: PoolConfig) -> None:
        self._config = config
        self._requests: list[Request] = []
        self._arrival = asyncio.Event()

    def put(self, kind: str, arrays: tuple[Array, ...]) -> Request:
        """Adds a request. Raises QueueFullError if too many wait already."""
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
        """The requests of the next forward pass: the oldest and, if requests are joined, those that join it."""
        while (left := self._patience()) is None or left > 0:
            self._arrival.clear()
            try:
                await asyncio.wait_for(self._arrival.wait(), left)
            except TimeoutError:
                break
        return self._take() or await self.next()

    def _patience(self) -> float | None:
        """Seconds that the next forward pass may still wait for more requests; None if no request waits."""
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
