"""Whose turn it is, and who is shed."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_ray.serving.protocol.refusal import Refusal
from msd_ray.serving.service.fair_queue import LATEST, SOONEST, FairQueue

Request = tuple[str, float, int]  # caller, weight, images


async def order_of(queue: FairQueue, requests: list[Request]) -> list[Request]:
    """Those that all arrive while another one runs, in the order in which they get their turns."""
    begun, free = list[Request](), asyncio.Event()

    async def ask(request: Request) -> None:
        with queue.place(*request) as turn:
            await turn
            begun.append(request)

    async def hold() -> None:
        with queue.place("first", 1.0, 1) as turn:
            await turn
            await free.wait()

    holding = asyncio.create_task(hold())
    await asyncio.sleep(0)
    asked = [asyncio.create_task(ask(request)) for request in requests]
    await asyncio.sleep(0)
    free.set()
    await asyncio.gather(holding, *asked)
    return begun


def test_a_greedy_caller_does_not_starve_others() -> None:
    requests: list[Request] = [("greedy", 1.0, 1)] * 50 + [("modest", 1.0, 1)] * 3
    begun = asyncio.run(order_of(FairQueue(1, 100), requests))
    assert [i for i, (caller, _, _) in enumerate(begun) if caller == "modest"] == [1, 3, 5]
    assert len(begun) == 53


@settings(max_examples=50, deadline=None)
@given(
    costs=st.tuples(*[st.lists(st.integers(1, 9), min_size=30, max_size=30)] * 2),
    weights=st.tuples(*[st.sampled_from([0.5, 1.0, 3.0])] * 2),
)
def test_two_callers_that_wait_get_images_by_their_weights(
    costs: tuple[list[int], list[int]], weights: tuple[float, float]
) -> None:
    requests: list[Request] = [(name, weights[i], n) for i, name in enumerate("ab") for n in costs[i]]
    begun = asyncio.run(order_of(FairQueue(1, 100), requests))
    got, left = {"a": 0.0, "b": 0.0}, {"a": 30, "b": 30}
    bound = sum(max(cost) / weight for cost, weight in zip(costs, weights, strict=True))
    for name, weight, images in begun:
        got[name], left[name] = got[name] + images / weight, left[name] - 1
        assert abs(got["a"] - got["b"]) <= bound + 1e-9
        if not all(left.values()):
            break
    for i, name in enumerate("ab"):
        assert [images for caller, _, images in begun if caller == name] == costs[i]  # in the order in which they came


def test_who_was_away_has_nothing_saved_up() -> None:
    async def go() -> list[Request]:
        queue = FairQueue(1, 100)
        with queue.place("busy", 1.0, 1) as turn:  # so that the queue is never empty, and forgets nobody
            await turn
            early: list[Request] = [("a", 1.0, 1)] * 20
            late: list[Request] = [("a", 1.0, 1)] * 10 + [("b", 1.0, 1)] * 10
            tasks = [asyncio.create_task(one_after_the_other(queue, early))]
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        return await order_of(queue, late)

    begun = [caller for caller, _, _ in asyncio.run(go())]
    assert all(abs(begun[:n].count("a") - begun[:n].count("b")) <= 2 for n in range(1, 21))


async def one_after_the_other(queue: FairQueue, requests: list[Request]) -> None:
    for request in requests:
        with queue.place(*request) as turn:
            await turn


def test_no_more_run_than_there_is_room_for() -> None:
    async def go() -> int:
        queue, most = FairQueue(3, 100), 0

        async def ask() -> None:
            nonlocal most
            with queue.place("a", 1.0, 1) as turn:
                await turn
                most = max(most, queue.running)
                await asyncio.sleep(0)

        await asyncio.gather(*(ask() for _ in range(40)))
        assert (queue.running, queue.waiting) == (0, 0)
        return most

    assert asyncio.run(go()) == 3


async def filled(queue: FairQueue, requests: list[Request], then: Callable[[], Awaitable[None]]) -> list[str]:
    """What becomes of requests that arrive one by one and never end."""
    found = ["waits"] * len(requests)

    async def ask(i: int) -> None:
        try:
            with queue.place(*requests[i]) as turn:
                await turn
                found[i] = "runs"
                await asyncio.sleep(60)
        except Refusal as refusal:
            found[i] = refusal.kind

    tasks = []
    for i in range(len(requests)):
        tasks.append(asyncio.create_task(ask(i)))
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    await then()
    seen = list(found)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (queue.running, queue.waiting) == (0, 0)
    return seen


async def nothing() -> None:
    pass


def test_overload_sheds_the_newest_of_whoever_has_the_most() -> None:
    a, b, shed = ("a", 1.0, 1), ("b", 1.0, 1), "RESOURCE_EXHAUSTED"
    found = asyncio.run(filled(FairQueue(1, 4), [a, a, a, a, a, a, b, b, b], nothing))
    #                                            runs |  four wait | full: the newest; b takes places of a, up to half
    assert found == ["runs", "waits", "waits", shed, shed, shed, "waits", "waits", shed]


def test_a_heavier_caller_may_have_more_that_wait() -> None:
    light, heavy, shed = ("light", 1.0, 1), ("heavy", 3.0, 1), "RESOURCE_EXHAUSTED"
    found = asyncio.run(filled(FairQueue(1, 4), [light] * 5 + [heavy] * 4, nothing))
    assert found == ["runs", "waits", shed, shed, shed, "waits", "waits", "waits", shed]


def test_a_burst_of_callers_that_go_leaves_nothing_behind() -> None:
    async def go() -> None:
        queue = FairQueue(2, 1000)

        async def ask(name: str) -> None:
            with queue.place(name, 1.0, 5) as turn:
                await turn
                await asyncio.sleep(60)

        tasks = [asyncio.create_task(ask(f"caller {i % 7}")) for i in range(300)]
        await asyncio.sleep(0)
        assert (queue.running, queue.waiting) == (2, 298)
        for task in tasks[::-1]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (queue.running, queue.waiting, queue._flows) == (0, 0, {})
        with queue.place("next", 1.0, 1) as turn:
            assert turn.done()

    asyncio.run(go())


def test_a_place_is_passed_on_where_its_caller_goes_at_that_moment() -> None:
    async def go() -> None:
        queue, free = FairQueue(1, 10), asyncio.Event()

        async def ask() -> None:
            with queue.place("a", 1.0, 1) as turn:
                await turn
                await free.wait()

        first, second, third = [asyncio.create_task(ask()) for _ in range(3)]
        await asyncio.sleep(0)
        second.cancel()  # its future is cancelled now, its block ends later
        first.cancel()
        with suppress(asyncio.CancelledError):
            await first
        await asyncio.sleep(0)
        assert (queue.running, queue.waiting) == (1, 0)
        free.set()
        await third
        assert (queue.running, queue.waiting) == (0, 0)

    asyncio.run(go())


@pytest.mark.parametrize(("seconds", "waiting", "told"), [(0.001, 3, SOONEST), (2.0, 3, 4.0), (600.0, 50, LATEST)])
def test_the_time_to_come_back_fits_how_long_requests_run(seconds: float, waiting: int, told: float) -> None:
    now = 0.0

    async def go() -> float | None:
        nonlocal now
        queue = FairQueue(2, waiting, lambda: now)
        for _ in range(200):
            with queue.place("a", 1.0, 1) as turn:
                await turn
                now += seconds
        refusal: list[Refusal] = []

        async def more() -> None:
            try:
                with queue.place("a", 1.0, 1):
                    pass
            except Refusal as error:
                refusal.append(error)

        await filled(queue, [("a", 1.0, 1)] * (2 + waiting), more)
        return refusal[0].retry_seconds

    assert asyncio.run(go()) == pytest.approx(told, rel=0.01)
