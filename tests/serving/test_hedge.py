"""A question is asked again beside one that stays open, and only there."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from msd_ray.serving.serve_apps.student_handles import FIRST, TRIES, pauses
from msd_ray.serving.serve_apps.student_handles import MOST as LONGEST
from msd_ray.serving.service.hedge import MOST, Hedge

Ask = Callable[[], Awaitable[int]]


class Replicas:
    """The first `stopped` questions are never answered."""

    def __init__(self, stopped: int, seconds: float = 0.0) -> None:
        self.stopped, self.seconds, self.asked, self.cancelled = stopped, seconds, 0, 0

    async def ask(self) -> int:
        self.asked += 1
        number = self.asked
        try:
            await asyncio.sleep(60 if number <= self.stopped else self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return number


def first(replicas: Replicas, hedge: Hedge) -> int:
    async def whole() -> int:
        answer = await asyncio.wait_for(hedge.first("a part", replicas.ask), 30)
        await asyncio.sleep(0)
        return answer

    return asyncio.run(whole())


@pytest.mark.parametrize("stopped", range(MOST))
def test_another_answers_where_a_replica_does_not(stopped: int) -> None:
    replicas = Replicas(stopped)
    assert first(replicas, Hedge(0.01)) == stopped + 1
    assert (replicas.asked, replicas.cancelled) == (stopped + 1, stopped)


def test_what_is_answered_is_asked_once() -> None:
    replicas = Replicas(0)
    assert first(replicas, Hedge(20.0)) == 1
    assert (replicas.asked, replicas.cancelled) == (1, 0)


def test_where_all_answers_are_slow_nothing_is_asked_twice() -> None:
    replicas, hedge = Replicas(0, seconds=0.4), Hedge(20.0)
    first(replicas, hedge)
    hedge._least = 0.01  # less than what is usual by now
    first(replicas, hedge)
    assert replicas.asked == 2


def test_an_error_is_passed_on_and_leaves_nothing_behind() -> None:
    async def fail() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(Hedge().first("a part", fail))


def test_who_gives_up_takes_all_questions_along() -> None:
    async def whole() -> None:
        task = asyncio.create_task(Hedge(0.01).first("a part", replicas.ask))
        while replicas.asked < MOST:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)

    replicas = Replicas(100)
    asyncio.run(whole())
    assert replicas.cancelled == MOST


def test_the_first_retry_is_at_once_and_pauses_grow_and_differ() -> None:
    several = [list(pauses()) for _ in range(50)]
    assert {len(waits) for waits in several} == {TRIES}
    assert {waits[0] for waits in several} == {0.0}
    for waits in several:
        bounds = [min(FIRST * 2**i, LONGEST) for i in range(TRIES - 1)]
        assert all(most / 2 <= wait <= most for wait, most in zip(waits[1:], bounds, strict=True))
    assert len({waits[1] for waits in several}) > 1
