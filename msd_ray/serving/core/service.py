"""A front's work: a wish goes out as errands to students, and comes back as images."""

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from msd_ray.serving.core.catalogue import Traffic, Version
from msd_ray.serving.core.giving_up import give_up
from msd_ray.serving.core.limits import Limits
from msd_ray.serving.core.readiness import NotReady, Readiness, refusal_of
from msd_ray.serving.core.routing import Errand, Item, errands
from msd_ray.serving.core.tally import Tally
from msd_ray.serving.core.wish import Wish
from msd_ray.serving.wire.refusal import Refusal, away, busy

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Made:
    """An image from its student. data: encoded. queue_ms, compute_ms: how long it waited there, and how long the
    evaluation took that it was part of. batch: images of that evaluation."""

    data: bytes
    queue_ms: float
    compute_ms: float
    batch: int = 1


@dataclass(frozen=True)
class Picture:
    """An image of an answer. item: of the errand that it was made for."""

    errand: Errand
    item: Item
    made: Made


class Students(Protocol):
    """Whoever brings errands to students. Answers with one image per item; raises Refusal where it cannot be."""

    async def ask(self, errand: Errand, seconds: float) -> Sequence[Made]: ...

    async def probe(self, version: Version, part: int, failed: bool) -> str:
        """Why a part's students cannot be asked now; empty where they can. failed: whether they could not before."""
        ...


class Service:
    """traffic: what is served now; None until that is known. tally: what was made since the start."""

    def __init__(self, students: Students, limits: Limits) -> None:
        self._students, self.limits = students, limits
        self.traffic: Traffic | None = None
        self.tally, self.readiness, self._under_way = Tally(), Readiness(), 0

    def known_traffic(self) -> Traffic:
        """Raises Refusal while nothing is served yet."""
        if self.traffic is None:
            raise away("the service is starting", 1.0)
        return self.traffic

    async def probe(self, seconds: float) -> None:
        """Asks all students whether they are ready of whom nothing good was heard for so long."""
        versions = self.traffic.versions if self.traffic else ()
        parts = {of: (version, part) for version in versions for part, of in enumerate(version.parts)}
        silent = [part for part in parts if self.readiness.silent(part, seconds)]
        await asyncio.gather(*(self._probe_one(of, *parts[of]) for of in silent))

    async def _probe_one(self, of: str, version: Version, part: int) -> None:
        began = time.monotonic()
        why = await self._students.probe(version, part, bool(self.readiness.why(of)))
        if not why or self.readiness.silent(of, time.monotonic() - began):  # an image since then says more
            self.readiness.heard(of, why)

    async def generate(self, wish: Wish, seconds: float | None) -> list[Picture]:
        """The images in the order of the wish. seconds: how long the caller waits, None for as long as we allow.

        Raises Refusal where one cannot be made, or not in time; then none of the others is made any more.
        """
        out, seconds = errands(wish, self.known_traffic()), self._patience(seconds)
        with self._room():
            answers = await _in_time(seconds, _all_or_none([self._pictures(errand, seconds) for errand in out]))
        return sorted((picture for answer in answers for picture in answer), key=_index)

    async def stream(self, wish: Wish, seconds: float | None) -> AsyncGenerator[Picture]:
        """Each image as soon as it is made, in any order. Raises Refusal as `generate`."""
        seconds = self._patience(seconds)
        out = [alone for errand in errands(wish, self.known_traffic()) for alone in errand.alone()]
        deadline = asyncio.get_running_loop().time() + seconds
        with self._room():
            tasks = [asyncio.create_task(self._pictures(errand, seconds)) for errand in out]
            try:
                for next_done in asyncio.as_completed(tasks):
                    left = deadline - asyncio.get_running_loop().time()
                    for picture in await _in_time(left, next_done):
                        yield picture
            finally:
                give_up(tasks)

    async def _asked(self, errand: Errand, seconds: float) -> Sequence[Made]:
        part = errand.version.parts[errand.part]
        try:
            made = await self._students.ask(errand, seconds)
        except Refusal as refusal:
            if refusal.kind != "UNAVAILABLE":
                raise
            self.readiness.heard(part, refusal.message)
            found = NotReady(errand.version, errand.part, refusal.message)
            raise refusal_of(found, refusal.retry_seconds) from None
        self.readiness.heard(part)
        return made

    @contextmanager
    def _room(self) -> Iterator[None]:
        """For one request more. Raises Refusal where enough are under way."""
        if self._under_way >= self.limits.concurrent:
            raise busy(f"{self._under_way} requests are under way already", 0.5)
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    def _patience(self, seconds: float | None) -> float:
        return self.limits.seconds if seconds is None else min(seconds, self.limits.seconds)

    async def _pictures(self, errand: Errand, seconds: float) -> list[Picture]:
        try:
            with self.readiness.waiting(errand, seconds):
                made = await self._asked(errand, seconds)
        except Refusal:
            self.tally.failed(errand.version.name)
            raise
        for image in made:
            self.tally.made(errand.version.name, image.queue_ms, image.compute_ms)
        return [Picture(errand, item, image) for item, image in zip(errand.items, made, strict=True)]


async def _in_time(seconds: float, work: Any) -> Any:
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise Refusal("DEADLINE_EXCEEDED", f"not done within {seconds:.3g} s") from None


async def _all_or_none(work: list[Coroutine[Any, Any, _Result]]) -> list[_Result]:
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        give_up(tasks)


def _index(picture: Picture) -> int:
    return picture.item.index
