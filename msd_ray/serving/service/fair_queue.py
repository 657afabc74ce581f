"""The queue in which requests wait for a place among those that run: start-time fair queueing over callers.

Each caller has a virtual start time, which rises by images / weight with each of its requests that begins. The request
of the caller with the least one is next. So while two callers wait, their images by weight differ by at most a request
of each, however much one of them asks for. (Goyal, Vin and Cheng: Start-time Fair Queuing, 1996.)
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from msd_ray.serving.protocol.refusal import Refusal, busy

SOONEST, LATEST = 0.1, 30.0
"""Seconds after which a refused caller may be told to come back."""
NEWS = 0.1
"""The weight of a request that ends in the mean of how long they run."""


@dataclass(eq=False)
class _Flow:
    """The requests of a caller that wait, the oldest first. start: the caller's virtual start time."""

    weight: float = 1.0
    start: float = 0.0
    waiting: deque["_Place"] = field(default_factory=deque)


@dataclass(eq=False)
class _Place:
    """turn: done once the request may run. began: when that was; None before."""

    flow: _Flow
    images: int
    turn: asyncio.Future[None]
    began: float | None = None


class FairQueue:
    """room: requests that run at once. most: that may wait besides."""

    def __init__(self, room: int, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._room, self._most, self._clock = room, most, clock
        self._flows: dict[str, _Flow] = {}
        self._virtual, self._ran = 0.0, 1.0
        self.running = self.waiting = 0

    @contextmanager
    def place(self, caller: str, weight: float, images: int) -> Iterator[asyncio.Future[None]]:
        """A place for the length of this block. It yields what the request has to await before it runs, which raises
        Refusal if another caller needs the place more. Raises Refusal if there is none."""
        flow = self._flows.setdefault(caller, _Flow())
        flow.weight = weight
        self._shed(flow)
        if not flow.waiting:
            flow.start = max(flow.start, self._virtual)
        place = _Place(flow, images, asyncio.get_running_loop().create_future())
        flow.waiting.append(place)
        self.waiting += 1
        self._admit()
        try:
            yield place.turn
        finally:
            self._leave(place)

    def _shed(self, arriving: _Flow) -> None:
        """If no more may wait, the newest request goes of the caller that has the most for its weight. Raises Refusal
        if that is the one that arrives."""
        if self.running < self._room or self.waiting < self._most:
            return
        flow = max(self._flows.values(), key=lambda f: ((len(f.waiting) + (f is arriving)) / f.weight, f is arriving))
        if flow is arriving:
            raise self._full()
        self.waiting -= 1
        newest = flow.waiting.pop().turn
        if not newest.done():
            newest.set_exception(self._full())

    def _admit(self) -> None:
        while self.waiting and self.running < self._room:
            flow = min((each for each in self._flows.values() if each.waiting), key=lambda each: each.start)
            place = flow.waiting.popleft()
            self.waiting -= 1
            if place.turn.done():  # its caller has gone
                continue
            self._virtual = flow.start
            flow.start += place.images / flow.weight
            place.began, self.running = self._clock(), self.running + 1
            place.turn.set_result(None)

    def _leave(self, place: _Place) -> None:
        if place.began is not None:
            self.running -= 1
            self._ran += NEWS * (self._clock() - place.began - self._ran)
        elif place in place.flow.waiting:
            place.flow.waiting.remove(place)
            self.waiting -= 1
        self._admit()
        if not self.running:
            self._flows.clear()

    def _full(self) -> Refusal:
        """It says how long those that wait will need, as far as the last ones tell."""
        seconds = self._ran * (self.waiting + 1) / self._room
        what = f"{self.running} requests are running and {self.waiting} wait already"
        return busy(what, min(max(seconds, SOONEST), LATEST))
