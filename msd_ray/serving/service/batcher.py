"""The queue of images for a student's computing thread, and the choice of those that share an evaluation."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from msd_ray.ensemble import SampleId
from msd_ray.serving.protocol.refusal import Refusal, busy
from msd_ray.serving.service.batching import Batching
from msd_ray.serving.service.hedge import give_up
from msd_ray.serving.service.strain import Strain

LOG = logging.getLogger(__name__)


class Maker(Protocol):
    """As `msd_ray.ensemble.Part`."""

    def position_of(self, sample_id: SampleId) -> int: ...

    def evaluate(self, sample_ids: Sequence[SampleId], positions: Sequence[int], size: int) -> Tensor: ...


@dataclass(frozen=True)
class Sample:
    """x: [C, H, W] or [D]. queue_ms: how long it waited. compute_ms: how long its evaluation took, all of
    it. batch: samples of that evaluation."""

    x: Tensor
    queue_ms: float
    compute_ms: float
    batch: int


@dataclass(eq=False)
class _Waiting:
    sample_id: SampleId
    position: int
    arrived: float
    asked: float
    deadline: float
    sample: asyncio.Future[Sample]


class Batcher:
    """One evaluation after the other, in one thread, each with the samples that have waited longest.

    It drops what was cancelled or is past its deadline. For use in one event loop. most: samples of an evaluation.
    """

    def __init__(
        self,
        maker: Maker,
        batching: Batching,
        thread: ThreadPoolExecutor,
        queue: int,
        batch: int,
        wait: float,
        watch: Callable[[bool | None], None] = lambda _: None,
    ) -> None:
        """queue: images that may wait. batch: most samples of an evaluation; 0: as many as it has positions. wait:
        seconds that the oldest waits for others. watch: told None where an evaluation begins, and whether it made its
        images where it ends."""
        self._watch = watch
        self._maker, self._batching, self._thread, self._queue, self._wait = maker, batching, thread, queue, wait
        self.most = min(batch or batching.most, batching.most)
        self._waiting: list[_Waiting] = []
        self._strain = Strain()
        self._arrival, self._seconds = asyncio.Event(), 0.1
        self._loop, self._working = asyncio.get_running_loop(), False

    async def make(self, sample_ids: Sequence[SampleId], seconds: float, waited: float = 0.0) -> list[Sample]:
        """The samples of these ids, in order. seconds: in which they are to begin. waited: how long they did already,
        elsewhere. Raises Refusal if the queue has no room, time runs out or the student fails. If the call is
        cancelled, samples that are not begun are dropped."""
        now = time.monotonic()
        if len(self._alive(now)) + len(sample_ids) > self._queue:
            raise busy(f"{len(self._waiting)} images wait already", self._outlook())
        mine = [self._put(sample_id, now, now - waited, now + seconds) for sample_id in sample_ids]
        if not self._working:
            self._task, self._working = self._loop.create_task(self._work()), True
        try:
            return [await waiting.sample for waiting in mine]
        finally:
            give_up(waiting.sample for waiting in mine)

    @property
    def waiting(self) -> int:
        """Images that wait now."""
        return len(self._alive(time.monotonic()))

    def strain(self) -> tuple[float, float]:
        """How long images wait, seconds, and the share of the time that is computed, since it was asked last."""
        now = time.monotonic()
        return self._strain.look(max((now - waiting.asked for waiting in self._alive(now)), default=0.0))

    def _put(self, sample_id: SampleId, now: float, asked: float, deadline: float) -> _Waiting:
        future: asyncio.Future[Sample] = self._loop.create_future()
        waiting = _Waiting(sample_id, self._maker.position_of(sample_id), now, asked, deadline, future)
        self._waiting.append(waiting)
        self._arrival.set()
        return waiting

    def _alive(self, now: float) -> list[_Waiting]:
        """The waiting images, oldest first, without cancelled ones; those past their deadline are refused."""
        for late in self._waiting:
            if late.deadline <= now and not late.sample.done():
                late.sample.set_exception(Refusal("DEADLINE_EXCEEDED", "not begun in time"))
        self._waiting = [w for w in self._waiting if not w.sample.done()]
        return self._waiting

    async def _work(self) -> None:
        """Until nobody waits."""
        try:
            while self._alive(time.monotonic()):
                await self._company()
                if taken := self._take():
                    await self._evaluate(taken)
        finally:
            self._working = False

    async def _company(self) -> None:
        """Waits for more samples, as long as the oldest may."""
        while (alive := self._alive(time.monotonic())) and len(alive) < self.most:
            left = alive[0].arrived + self._wait - time.monotonic()
            if left <= 0:
                return
            self._arrival.clear()
            try:
                await asyncio.wait_for(self._arrival.wait(), left)
            except TimeoutError:
                return

    def _take(self) -> dict[int, _Waiting]:
        """The samples of the next evaluation by their positions."""
        taken: dict[int, _Waiting] = {}
        for waiting in self._alive(time.monotonic()):
            position = len(taken) if self._batching.free else waiting.position
            if len(taken) < self.most and position not in taken:
                taken[position] = waiting
        chosen = set(map(id, taken.values()))
        self._waiting = [w for w in self._waiting if id(w) not in chosen]
        return taken

    async def _evaluate(self, taken: dict[int, _Waiting]) -> None:
        begin, sample_ids = time.monotonic(), [w.sample_id for w in taken.values()]
        size = self._batching.size_for(len(taken))
        self._watch(None)
        work = self._loop.run_in_executor(self._thread, self._maker.evaluate, sample_ids, list(taken), size)
        try:
            made: Sequence[Tensor] = list(await work)
        except Exception:
            LOG.exception("a student failed")
            self._watch(False)
            self._fail(list(taken.values()))
            return
        self._watch(True)
        self._seconds = time.monotonic() - begin
        self._strain.evaluated([begin - waiting.asked for waiting in taken.values()], self._seconds)
        for waiting, x in zip(taken.values(), made, strict=True):
            if not waiting.sample.done():
                queued = begin - waiting.arrived
                waiting.sample.set_result(Sample(x, 1000 * queued, 1000 * self._seconds, len(taken)))

    def _fail(self, taken: list[_Waiting]) -> None:
        for waiting in taken:
            if not waiting.sample.done():
                waiting.sample.set_exception(Refusal("INTERNAL", "the student failed; its log says why"))

    def _outlook(self) -> float:
        """Seconds after which the queue has about emptied."""
        return max(0.05, self._seconds * -(-len(self._waiting) // self.most))
