"""A gateway's work: it divides a request into part requests, sends them to students, and collects the images."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from msd_ray.serving.protocol.refusal import Refusal, away
from msd_ray.serving.service.deadline import Deadline
from msd_ray.serving.service.deny import function_of, refuse_denied
from msd_ray.serving.service.door import Door
from msd_ray.serving.service.hedge import give_up
from msd_ray.serving.service.preparer import Preparer
from msd_ray.serving.service.readiness import NotReady, Readiness, refusal_of
from msd_ray.serving.service.request import ImageRequest, Limits
from msd_ray.serving.service.routing import Item, PartRequest, Wanted, part_requests, wanted_of
from msd_ray.serving.service.tokens import ANYBODY, Caller
from msd_ray.serving.service.versions import Traffic, Version
from msd_ray.serving.service.withhold import Withholding


@dataclass
class ImageCount:
    """images: made. failures: part requests that failed. queue_ms, compute_ms: sums over the images."""

    images: int = 0
    failures: int = 0
    queue_ms: float = 0.0
    compute_ms: float = 0.0


class VersionCounts:
    """One count for each version."""

    def __init__(self) -> None:
        self._counts: dict[str, ImageCount] = defaultdict(ImageCount)

    def made(self, version: str, queue_ms: float, compute_ms: float) -> None:
        count = self._counts[version]
        count.images += 1
        count.queue_ms += queue_ms
        count.compute_ms += compute_ms

    def failed(self, version: str) -> None:
        self._counts[version].failures += 1

    def of(self, version: str) -> ImageCount:
        return self._counts[version]


_Result = TypeVar("_Result")


@dataclass(frozen=True)
class StudentImage:
    """An image from its student. data: encoded. queue_ms, compute_ms: how long it waited there, and how long the
    evaluation took that it was part of. batch: images of that evaluation. batching, bound: as of `Batching`."""

    data: bytes
    queue_ms: float
    compute_ms: float
    batch: int = 1
    batching: str = "exact"
    bound: float = 0.0


@dataclass(frozen=True)
class Picture:
    """An image of an answer. item: of the part's request that it was made for."""

    part_request: PartRequest
    item: Item
    made: StudentImage


class Students(Protocol):
    """A call to the students of a part. It returns one image per item, or raises Refusal."""

    async def ask(self, part_request: PartRequest, seconds: float) -> Sequence[StudentImage]: ...

    async def probe(self, version: Version, part: int, failed: bool) -> str:
        """Why a part's students cannot be asked now; empty where they can. failed: whether they could not before."""
        ...


class Service:
    """traffic: what is served now; None until that is known. tally: what was made since the start."""

    def __init__(self, students: Students, limits: Limits, threads: int = 1) -> None:
        """threads: that text encoders compute with. Raises UserError where a function of the limits cannot be had."""
        self._students, self.limits, self._deny = students, limits, function_of(limits.deny, "deny")
        self._withholding = Withholding(limits.withhold)
        self._preparer = Preparer(threads)
        self.traffic: Traffic | None = None
        self.tally, self.readiness, self.door = VersionCounts(), Readiness(), Door(limits)

    def known_traffic(self) -> Traffic:
        """Raises Refusal while nothing is served yet."""
        if self.traffic is None:
            raise away("the service is starting", 1.0)
        return self.traffic

    async def serve(self, traffic: Traffic) -> None:
        """Serves this traffic from now on, once what makes vectors of its prompts is loaded. If that fails, prompts are
        refused with the reason."""
        with suppress(Refusal):  # it is logged
            await self._preparer.warm(traffic.versions)
        self.traffic = traffic

    async def probe(self, seconds: float) -> None:
        """Probes all students that gave no good answer for so long."""
        versions = self.traffic.versions if self.traffic else ()
        parts = {of: (version, part) for version in versions for part, of in enumerate(version.parts)}
        silent = [part for part in parts if self.readiness.silent(part, seconds)]
        await asyncio.gather(*(self._probe_one(of, *parts[of]) for of in silent))

    async def _probe_one(self, of: str, version: Version, part: int) -> None:
        began = time.monotonic()
        why = await self._students.probe(version, part, bool(self.readiness.why(of)))
        if not why or self.readiness.silent(of, time.monotonic() - began):  # an image that was made since says more
            self.readiness.heard(of, why)

    async def generate(
        self, image_request: ImageRequest, seconds: float | None, caller: Caller = ANYBODY
    ) -> list[Picture]:
        """The images in the order of the request. seconds: how long the caller waits, None for as long as the limit.

        Raises Refusal if one cannot be made, or not in time; the others are then cancelled.
        """
        wanted, deadline = self._wanted(image_request), self._deadline(seconds)
        async with self.door.admitted(caller, len(wanted), deadline):
            out = await self._routed(wanted, deadline)
            left = deadline.left
            answers = await deadline.meet(_all_or_none([self._pictures(part_request, left) for part_request in out]))
        return sorted((picture for answer in answers for picture in answer), key=_index)

    async def stream(
        self, image_request: ImageRequest, seconds: float | None, caller: Caller = ANYBODY
    ) -> AsyncGenerator[Picture]:
        """Each image as soon as it is made, in any order. Raises Refusal as `generate`."""
        wanted, deadline = self._wanted(image_request), self._deadline(seconds)
        async with self.door.admitted(caller, len(wanted), deadline):
            out = [alone for part_request in await self._routed(wanted, deadline) for alone in part_request.alone()]
            left = deadline.left
            tasks = [asyncio.create_task(self._pictures(part_request, left)) for part_request in out]
            try:
                for next_done in asyncio.as_completed(tasks):
                    for picture in await deadline.meet(next_done):
                        yield picture
            finally:
                give_up(tasks)

    async def _asked(self, part_request: PartRequest, seconds: float) -> Sequence[StudentImage]:
        part = part_request.version.parts[part_request.part]
        try:
            made = await self._students.ask(part_request, seconds)
        except Refusal as refusal:
            if refusal.kind != "UNAVAILABLE":
                raise
            self.readiness.heard(part, refusal.message)
            found = NotReady(part_request.version, part_request.part, refusal.message)
            raise refusal_of(found, refusal.retry_seconds) from None
        self.readiness.heard(part)
        return made

    def _deadline(self, seconds: float | None) -> Deadline:
        return Deadline(self.limits.seconds if seconds is None else min(seconds, self.limits.seconds))

    def _wanted(self, image_request: ImageRequest) -> list[Wanted]:
        """Raises Refusal where it, or one of its prompts, is refused."""
        wanted = wanted_of(image_request, self.known_traffic())
        if self._deny:
            refuse_denied(self._deny, ((index, one.condition) for index, one in enumerate(wanted)))
        return wanted

    async def _routed(self, wanted: list[Wanted], deadline: Deadline) -> list[PartRequest]:
        return part_requests(wanted, await deadline.meet(self._preparer.prepared(wanted)))

    async def _pictures(self, part_request: PartRequest, seconds: float) -> list[Picture]:
        try:
            with self.readiness.waiting(part_request, seconds):
                made = await self._asked(part_request, seconds)
        except Refusal:
            self.tally.failed(part_request.version.name)
            raise
        for image in made:
            self.tally.made(part_request.version.name, image.queue_ms, image.compute_ms)
        await self._withholding.check(part_request, made)
        return [Picture(part_request, item, image) for item, image in zip(part_request.items, made, strict=True)]


async def _all_or_none(work: list[Coroutine[Any, Any, _Result]]) -> list[_Result]:
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        give_up(tasks)


def _index(picture: Picture) -> int:
    return picture.item.index
