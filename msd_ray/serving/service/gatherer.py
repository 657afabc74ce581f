"""Requests to the same students that wait together leave together: one call costs as much as another, whatever its
images."""

import asyncio
import contextvars
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from msd_ray.ensemble import SampleId
from msd_ray.serving.protocol.refusal import Refusal, busy
from msd_ray.serving.service.hedge import give_up
from msd_ray.serving.service.routing import PartRequest
from msd_ray.serving.service.service import StudentImage

CALLS = 1
"""That are under way to a place; requests that come meanwhile leave together."""
PartAnswer = list[StudentImage] | Refusal


@dataclass(eq=False)
class Asked:
    """A request to a part that waits or is under way. deadline, began: on the monotonic clock."""

    part_request: PartRequest
    deadline: float
    answer: asyncio.Future[list[StudentImage]]
    began: float = field(default_factory=time.monotonic)
    context: contextvars.Context = field(default_factory=contextvars.copy_context)

    @property
    def images(self) -> int:
        return len(self.part_request.items)


@dataclass(frozen=True)
class PartCall:
    """A request as a replica gets it. uri, part, version: of the students. seconds: that are left. waited: seconds
    before it left the gateway."""

    uri: str
    part: int
    version: str
    sample_ids: list[SampleId]
    format: str
    seconds: float
    waited: float = 0.0


@dataclass(frozen=True)
class Answers:
    """Of one call, in its order. most: images of the largest evaluation of the students, where they are ready."""

    answers: list[PartAnswer]
    most: list[int]


Send = Callable[[Sequence[Asked]], Awaitable[Answers]]


class Gatherer:
    """What goes to one place. So many calls are under way at once; requests that come meanwhile leave with the next,
    as many of each part as one evaluation takes. An idle place gets each at once. For use in one event loop."""

    def __init__(self, send: Send, calls: int, queue: int) -> None:
        """send: makes one call; may raise Refusal for all of it. queue: images that may wait here."""
        self._send, self._calls, self._queue = send, calls, queue
        self._waiting: list[Asked] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._most: dict[str, int] = {}

    async def ask(self, part_request: PartRequest, deadline: float) -> list[StudentImage]:
        """One image per item. Raises Refusal. If this is cancelled, the request is dropped unless it has left with
        others that are not."""
        self._drop_late()
        waiting = sum(asked.images for asked in self._waiting)
        if waiting and waiting + len(part_request.items) > self._queue:
            raise busy(f"{waiting} images wait already", 0.5)
        asked = Asked(part_request, deadline, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        asyncio.get_running_loop().call_soon(self._start)  # after others that come at the same moment
        try:
            return await asked.answer
        finally:
            give_up([asked.answer])

    def _start(self) -> None:
        """Makes calls while there are requests for them."""
        while len(self._under_way) < self._calls and (taken := self._take()):
            task = asyncio.get_running_loop().create_task(self._call(taken), context=taken[0].context)
            self._under_way.add(task)
            task.add_done_callback(self._ended)
            for asked in taken:
                asked.answer.add_done_callback(partial(_cancel_unwanted, task, taken))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._start()

    def _drop_late(self) -> None:
        now = time.monotonic()
        for asked in self._waiting:
            if asked.deadline <= now and not asked.answer.done():
                asked.answer.set_exception(Refusal("DEADLINE_EXCEEDED", "not begun in time"))
        self._waiting = [asked for asked in self._waiting if not asked.answer.done()]

    def _take(self) -> list[Asked]:
        """The next call's requests, the oldest first."""
        self._drop_late()
        taken, left, images = list[Asked](), list[Asked](), defaultdict[str, int](int)
        for asked in self._waiting:
            part = _part(asked)
            images[part] += asked.images
            fits = images[part] == asked.images or images[part] <= self._most.get(part, 0)
            (taken if fits else left).append(asked)
        self._waiting = left
        return taken

    async def _call(self, taken: list[Asked]) -> None:
        try:
            said = await self._send(taken)
        except asyncio.CancelledError:  # as nobody waits, or with the request that the call was made for first
            self._waiting[:0] = [asked for asked in taken if not asked.answer.done()]
            raise
        except Exception as error:
            for asked in taken:
                _settle(asked, error)
            return
        for asked, answer, most in zip(taken, said.answers, said.most, strict=True):
            self._most[_part(asked)] = most
            _settle(asked, answer)


def call_of(asked: Asked) -> PartCall:
    """What a replica gets of a request that leaves now."""
    of, now = asked.part_request, time.monotonic()
    which = of.version.uri, of.part, of.version.parts[of.part]
    return PartCall(*which, of.sample_ids, of.format, asked.deadline - now, now - asked.began)


def _part(asked: Asked) -> str:
    return asked.part_request.version.parts[asked.part_request.part]


def _settle(asked: Asked, answer: list[StudentImage] | Exception) -> None:
    if asked.answer.done():
        return
    if isinstance(answer, Exception):
        asked.answer.set_exception(answer)
    else:
        asked.answer.set_result(answer)


def _cancel_unwanted(task: asyncio.Task[None], taken: list[Asked], _: asyncio.Future[list[StudentImage]]) -> None:
    """Ends a call that nobody waits for any more."""
    if all(asked.answer.cancelled() for asked in taken):
        task.cancel()
