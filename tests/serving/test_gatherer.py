"""Which requests travel to students together, and what becomes of those nobody waits for."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from msd_ray.serving.protocol.refusal import Refusal
from msd_ray.serving.service.ensemble_facts import describe
from msd_ray.serving.service.gatherer import Answers, Asked, Gatherer
from msd_ray.serving.service.routing import Item, PartRequest
from msd_ray.serving.service.service import StudentImage
from msd_ray.serving.service.versions import Version

Test = Callable[["Place", Gatherer], Awaitable[None]]


@pytest.fixture(scope="module")
def version(tiny: str) -> Version:
    return describe(tiny)


class Place:
    """Students whose calls wait until they are let through. An image is its seed; the students refuse 666."""

    def __init__(self, version: Version, most: int) -> None:
        self.version, self.most, self.open = version, most, asyncio.Semaphore(0)
        self.calls: list[list[tuple[int, list[int]]]] = []
        self.cancelled = 0

    async def send(self, asked: Sequence[Asked]) -> Answers:
        requests = [each.part_request for each in asked]
        self.calls.append([(request.part, [item.seed for item in request.items]) for request in requests])
        try:
            await self.open.acquire()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Answers([_made(request) for request in requests], [self.most for _ in requests])

    def let(self, calls: int) -> None:
        for _ in range(calls):
            self.open.release()

    def request(self, *seeds: int, part: int = 0) -> PartRequest:
        return PartRequest(self.version, part, tuple(Item(i, 0, seed) for i, seed in enumerate(seeds)), "png")

    def ask(self, gatherer: Gatherer, *seeds: int, part: int = 0, seconds: float = 20) -> asyncio.Task[Any]:
        return asyncio.create_task(gatherer.ask(self.request(*seeds, part=part), time.monotonic() + seconds))


def _made(request: PartRequest) -> list[StudentImage] | Refusal:
    if any(item.seed == 666 for item in request.items):
        return Refusal("INTERNAL", "the student failed")
    return [StudentImage(bytes([item.seed]), 0.0, 0.0) for item in request.items]


def run(version: Version, test: Test, most: int = 4, calls: int = 1, queue: int = 100) -> Place:
    async def whole() -> Place:
        place = Place(version, most)
        await test(place, Gatherer(place.send, calls, queue))
        return place

    return asyncio.run(asyncio.wait_for(whole(), 30))


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def warm(place: Place, gatherer: Gatherer) -> None:
    """One call, by which the gatherer learns how large evaluations are."""
    place.let(1)
    await place.ask(gatherer, 0)
    place.calls.clear()


def data(made: list[StudentImage]) -> list[int]:
    return [image.data[0] for image in made]


def test_an_idle_place_gets_a_request_at_once_and_the_rest_gathers(version: Version) -> None:
    async def test(place: Place, gatherer: Gatherer) -> None:
        await warm(place, gatherer)
        first = place.ask(gatherer, 1)
        await settled()
        others = [place.ask(gatherer, seed) for seed in (2, 3, 4)]
        await settled()
        assert place.calls == [[(0, [1])]]
        place.let(2)
        assert [data(await each) for each in (first, *others)] == [[1], [2], [3], [4]]

    assert run(version, test).calls == [[(0, [1])], [(0, [2]), (0, [3]), (0, [4])]]


def test_requests_of_one_moment_leave_together(version: Version) -> None:
    async def test(place: Place, gatherer: Gatherer) -> None:
        place.let(1)
        asked = [place.ask(gatherer, part, 10 + part, part=part) for part in range(3)]
        assert [data(await each) for each in asked] == [[0, 10], [1, 11], [2, 12]]

    assert len(run(version, test).calls) == 1


def test_a_call_has_as_many_of_each_part_as_an_evaluation(version: Version) -> None:
    async def test(place: Place, gatherer: Gatherer) -> None:
        await warm(place, gatherer)
        first = place.ask(gatherer, 1, 2, 3, 4, 5)  # a single request may be larger
        await settled()
        others = [place.ask(gatherer, *seeds) for seeds in ((1, 2), (3, 4), (5,), (6,))]
        other_part = place.ask(gatherer, 7, part=1)
        place.let(3)
        await asyncio.gather(first, *others, other_part)

    one, two, three = run(version, test).calls
    assert one == [(0, [1, 2, 3, 4, 5])]
    assert two == [(0, [1, 2]), (0, [3, 4]), (1, [7])]
    assert three == [(0, [5]), (0, [6])]


def test_before_it_knows_the_students_each_request_leaves_alone(version: Version) -> None:
    async def test(place: Place, gatherer: Gatherer) -> None:
        place.let(3)
        await asyncio.gather(*(place.ask(gatherer, seed) for seed in (1, 2, 3)))

    assert run(version, test).calls == [[(0, [1])], [(0, [2]), (0, [3])]]


def test_several_replicas_have_several_calls(version: Version) -> None:
    async def test(place: Place, gatherer: Gatherer) -> None:
        asked = [place.ask(gatherer, seed) for seed in (1, 2, 3)]
        await settled()
        assert len(place.calls) == 2
        place.let(3)
        await asyncio.gather(*asked)

    run(version, test, calls=2)


def test_what_is_cancelled_or_too_late_never_leaves(version: Version) -> None:
    async def test(place: Place, gatherer: Gatherer) -> None:
        await warm(place, gatherer)
        first = place.ask(gatherer, 1)
        await settled()
        cancelled, late, kept = place.ask(gatherer, 2), place.ask(gatherer, 3, seconds=0.05), place.ask(gatherer, 4)
        await asyncio.sleep(0.1)
        cancelled.cancel()
        place.let(2)
        assert data(await kept) == [4]
        with pytest.raises(Refusal) as told:
            await late
        assert told.value.kind == "DEADLINE_EXCEEDED"
        await first

    assert run(version, test).calls == [[(0, [1])], [(0, [4])]]


def test_a_call_ends_when_nobody_waits_for_it(version: Version) -> None:
    async def test(place: Place, gatherer: Gatherer) -> None:
        one, other = place.ask(gatherer, 1, part=0), place.ask(gatherer, 2, part=1)
        await settled()
        one.cancel()
        await settled()
        assert place.cancelled == 0
        other.cancel()
        await settled()
        assert place.cancelled == 1
        place.let(1)
        assert data(await place.ask(gatherer, 3)) == [3]

    run(version, test)


def test_a_refusal_is_for_its_own_request(version: Version) -> None:
    async def test(place: Place, gatherer: Gatherer) -> None:
        place.let(1)
        good, bad = place.ask(gatherer, 1, part=0), place.ask(gatherer, 666, part=1)
        assert data(await good) == [1]
        with pytest.raises(Refusal, match="the student failed"):
            await bad

    run(version, test)


def test_a_call_that_fails_is_told_to_all_of_it(version: Version) -> None:
    async def test(place: Place, gatherer: Gatherer) -> None:
        async def fail(asked: Sequence[Asked]) -> Answers:
            raise Refusal("UNAVAILABLE", "no replica answered")

        failing = Gatherer(fail, 1, 100)
        asked = [place.ask(failing, 1, part=part) for part in range(2)]
        for each in asked:
            with pytest.raises(Refusal, match="no replica"):
                await each

    run(version, test)


def test_a_call_that_ends_with_its_first_request_is_made_again_for_the_others(version: Version) -> None:
    """Serve cancels calls that belong to an HTTP request whose caller has gone."""

    async def test(place: Place, gatherer: Gatherer) -> None:
        tries: list[int] = []

        async def send(asked: Sequence[Asked]) -> Answers:
            tries.append(len(asked))
            if len(tries) == 1:
                raise asyncio.CancelledError
            return await place.send(asked)

        place.let(1)
        again = Gatherer(send, 1, 100)
        asked = [place.ask(again, part, part=part) for part in range(2)]
        assert [data(await each) for each in asked] == [[0], [1]]
        assert tries == [2, 2]

    run(version, test)


def test_a_full_queue_is_told(version: Version) -> None:
    async def test(place: Place, gatherer: Gatherer) -> None:
        first = place.ask(gatherer, 1)
        await settled()
        waiting = place.ask(gatherer, 2, 3)
        await settled()
        with pytest.raises(Refusal, match="2 images wait already") as told:
            await gatherer.ask(place.request(4, 5), time.monotonic() + 20)
        assert told.value.kind == "RESOURCE_EXHAUSTED" and told.value.retry_seconds
        place.let(2)
        await asyncio.gather(first, waiting)

    run(version, test, queue=3)


def test_versions_have_evaluations_of_their_own(version: Version) -> None:
    async def test(place: Place, gatherer: Gatherer) -> None:
        await warm(place, gatherer)
        place.version = replace(version, parts=("another", *version.parts[1:]))
        place.let(2)
        await asyncio.gather(*(place.ask(gatherer, seed) for seed in (1, 2)))

    assert [len(call) for call in run(version, test).calls] == [1, 1]
