"""Which images share an evaluation, and what becomes of those nobody waits for."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from msd_ray.serving.protocol.refusal import Refusal
from msd_ray.serving.service.batcher import Batcher, Sample
from msd_ray.serving.service.batching import Batching

Test = Callable[[Batcher, "Gate"], Awaitable[None]]
COMMON: dict[str, Any] = {"queue": 8, "batch": 0, "wait": 0.0}
AT_POSITIONS = Batching("exact", (4,), free=False)


class Gate:
    """A maker of batches of four whose evaluations wait until they are let through. A sample is [condition, seed]."""

    def __init__(self) -> None:
        self.open, self.begun = threading.Semaphore(0), asyncio.Semaphore(0)
        self.loop, self.evaluations = asyncio.get_running_loop(), list[list[tuple[tuple[int, int], int]]]()
        self.sizes: list[int] = []

    def position_of(self, pair: tuple[int, int]) -> int:
        return pair[1] % 4

    def evaluate(self, pairs: Sequence[tuple[int, int]], positions: Sequence[int], size: int) -> Tensor:
        self.sizes.append(size)
        self.evaluations.append(list(zip(pairs, positions, strict=True)))
        self.loop.call_soon_threadsafe(self.begun.release)
        assert self.open.acquire(timeout=20)
        if any(seed == 666 for _, seed in pairs):
            raise RuntimeError("the network does not like this")
        return torch.tensor(pairs)


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as it:
        yield it


def run(test: Test, thread: ThreadPoolExecutor, batching: Batching = AT_POSITIONS, **options: Any) -> Gate:
    async def whole() -> Gate:
        gate = Gate()
        await test(Batcher(gate, batching, thread, **{**COMMON, **options}), gate)
        return gate

    return asyncio.run(asyncio.wait_for(whole(), 30))


def made(samples: list[Sample]) -> list[tuple[int, ...]]:
    return [tuple(sample.x.tolist()) for sample in samples]


async def held(batcher: Batcher, gate: Gate) -> asyncio.Task[Any]:
    """An image in an evaluation that waits at the gate."""
    task = asyncio.create_task(batcher.make([(9, 0)], 20))
    await gate.begun.acquire()
    return task


def test_images_come_back_in_order_each_made_at_its_position(thread: ThreadPoolExecutor) -> None:
    async def test(batcher: Batcher, gate: Gate) -> None:
        gate.open.release(10)
        pairs = [(0, 5), (1, 2), (2, 1), (3, 3)]
        assert made(await batcher.make(pairs, 20)) == pairs

    gate = run(test, thread)
    assert gate.evaluations == [[((0, 5), 1), ((1, 2), 2), ((3, 3), 3)], [((2, 1), 1)]]
    assert gate.sizes == [4, 4]


def test_it_says_how_long_images_waited_at_the_gateway_too(thread: ThreadPoolExecutor) -> None:
    async def test(batcher: Batcher, gate: Gate) -> None:
        first = await held(batcher, gate)
        waiting = asyncio.create_task(batcher.make([(0, 1)], 20, waited=3.0))
        await asyncio.sleep(0.05)
        assert 3.05 <= batcher.strain()[0] < 10
        gate.open.release(2)
        await asyncio.gather(first, waiting)
        assert 1.5 < batcher.strain()[0] < 5  # the mean of both
        assert batcher.strain() == (0.0, 0.0)

    run(test, thread)


def test_where_positions_do_not_show_evaluations_are_filled_in_order(thread: ThreadPoolExecutor) -> None:
    async def test(batcher: Batcher, gate: Gate) -> None:
        gate.open.release(10)
        pairs = [(i, 4) for i in range(6)]
        assert made(await batcher.make(pairs, 20)) == pairs

    gate = run(test, thread, Batching("exact", (4,)))
    assert gate.evaluations == [[((i, 4), i) for i in range(4)], [((4, 4), 0), ((5, 4), 1)]]


@pytest.mark.parametrize(("sizes", "taken"), [((2, 8), [2, 8, 8]), (tuple(range(1, 9)), [1, 3, 8])])
def test_an_evaluation_takes_the_first_size_that_has_room(
    thread: ThreadPoolExecutor, sizes: tuple[int, ...], taken: list[int]
) -> None:
    async def test(batcher: Batcher, gate: Gate) -> None:
        gate.open.release(10)
        for n in (1, 3, 8):
            assert len(await batcher.make([(0, i) for i in range(n)], 20)) == n

    assert run(test, thread, Batching("batched", sizes)).sizes == taken


def test_requests_of_several_callers_share_an_evaluation(thread: ThreadPoolExecutor) -> None:
    async def test(batcher: Batcher, gate: Gate) -> None:
        first = await held(batcher, gate)
        others = [asyncio.create_task(batcher.make([(i, i)], 20)) for i in range(4)]
        await asyncio.sleep(0)
        gate.open.release(10)
        assert [made(await other) for other in others] == [[(i, i)] for i in range(4)]
        await first

    assert len(run(test, thread).evaluations) == 2


def test_at_most_a_batch_is_evaluated_at_once(thread: ThreadPoolExecutor) -> None:
    async def test(batcher: Batcher, gate: Gate) -> None:
        gate.open.release(10)
        await batcher.make([(0, i) for i in range(4)], 20)

    assert [len(e) for e in run(test, thread, batch=3).evaluations] == [3, 1]


def test_what_is_cancelled_or_too_late_is_never_made(thread: ThreadPoolExecutor) -> None:
    async def test(batcher: Batcher, gate: Gate) -> None:
        first = await held(batcher, gate)
        cancelled = asyncio.create_task(batcher.make([(1, 1)], 20))
        late = asyncio.create_task(batcher.make([(2, 2)], 0.05))
        kept = asyncio.create_task(batcher.make([(3, 3)], 20))
        await asyncio.sleep(0.1)
        cancelled.cancel()
        gate.open.release(10)
        assert made(await kept) == [(3, 3)]
        with pytest.raises(Refusal) as told:
            await late
        assert told.value.kind == "DEADLINE_EXCEEDED"
        await first

    assert run(test, thread).evaluations == [[((9, 0), 0)], [((3, 3), 3)]]


def test_a_full_queue_says_when_to_come_back(thread: ThreadPoolExecutor) -> None:
    async def test(batcher: Batcher, gate: Gate) -> None:
        first = await held(batcher, gate)
        waiting = asyncio.create_task(batcher.make([(0, i) for i in range(7)], 20))
        await asyncio.sleep(0)
        with pytest.raises(Refusal, match="7 images wait already") as told:
            await batcher.make([(1, 0), (1, 1)], 20)
        assert told.value.kind == "RESOURCE_EXHAUSTED"
        assert told.value.retry_seconds is not None and told.value.retry_seconds > 0
        gate.open.release(10)
        assert len(await waiting) == 7
        assert made(await batcher.make([(1, 0), (1, 1)], 20)) == [(1, 0), (1, 1)]
        await first

    run(test, thread)


def test_a_failure_takes_only_its_own_evaluation(thread: ThreadPoolExecutor) -> None:
    async def test(batcher: Batcher, gate: Gate) -> None:
        gate.open.release(10)
        with pytest.raises(Refusal, match="the student failed") as told:
            await batcher.make([(0, 666)], 20)
        assert told.value.kind == "INTERNAL"
        assert made(await batcher.make([(0, 1)], 20)) == [(0, 1)]

    run(test, thread)
