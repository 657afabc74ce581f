"""Which requests share a forward pass, and that sharing one changes nothing but last bits. No Ray."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msd_ray.cluster.pool.batching import QueueFullError, Reply, Request, RequestQueue
from msd_ray.cluster.pool.denoising import BatchDenoiser
from msd_ray.networks import DenoiserSpec, UNetConfig
from msd_ray.recipes import PoolConfig
from msd_ray.runs.teacher_cache import keep_teacher, load_teacher
from msd_ray.storage import Store
from msd_ray.teachers.kept_teacher import KeptTeacher
from msd_ray.training.state import State

SPEC = DenoiserSpec(UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0), (1, 8, 8), 10)
JOINED = PoolConfig(deterministic=False, max_batch=8, max_wait_ms=20.0, max_queue=4)
Arrays = tuple[np.ndarray[Any, Any], ...]


def arrays(n: int, seed: int = 0, size: int = 8) -> Arrays:
    rng = np.random.default_rng(seed)
    x_t = rng.standard_normal((n, 1, size, size), np.float32)
    return x_t, rng.uniform(0.1, 5, n).astype(np.float32), rng.integers(10, size=n)


@pytest.fixture
def answering(tmp_path: Path) -> BatchDenoiser:
    torch.manual_seed(0)
    denoiser = SPEC.build()
    weights = {name: w + torch.randn_like(w) * 0.1 for name, w in denoiser.state_dict().items()}
    keep_teacher(Store(str(tmp_path)), SPEC, State({"ema": weights}, {"nimg": 0, "wall_seconds": 0, "cpu_seconds": 0}))
    return BatchDenoiser(partial(load_teacher, KeptTeacher(Store(str(tmp_path)))), gpus=0.0)


def requests(*asked: Arrays, kind: str = "denoise") -> list[Request]:
    loop = asyncio.new_event_loop()
    return [Request(kind, a, 0.0, loop.create_future()) for a in asked]


def alone(answering: BatchDenoiser, *asked: Arrays, kind: str = "denoise") -> list[Any]:
    return [answering.outcomes([r])[0] for r in requests(*asked, kind=kind)]


@pytest.mark.parametrize("kind", ["denoise", "vjp"])
def test_joined_answers_equal_those_computed_alone(answering: BatchDenoiser, kind: str) -> None:
    asked = [arrays(n, seed=n) for n in (3, 1, 4)]
    if kind == "vjp":
        asked = [(*a, a[0][::-1].copy()) for a in asked]
    joined = answering.outcomes(requests(*asked, kind=kind))
    for together, single, question in zip(joined, alone(answering, *asked, kind=kind), asked, strict=True):
        assert isinstance(together, Reply)
        assert together.array.shape == question[0].shape
        assert np.abs(single.array).max() > 0.1
        np.testing.assert_allclose(together.array, single.array, rtol=0, atol=1e-5)


def test_an_answer_computed_alone_is_the_same_bit_for_bit_whatever_was_computed_before(
    answering: BatchDenoiser,
) -> None:
    first, *_, last = alone(answering, arrays(3), arrays(7, seed=1), arrays(1, seed=2), arrays(3))
    assert np.array_equal(first.array, last.array)


def test_the_cpu_time_of_a_forward_pass_is_shared_out_by_images(answering: BatchDenoiser) -> None:
    few, many = answering.outcomes(requests(arrays(1), arrays(3)))
    assert isinstance(few, Reply) and isinstance(many, Reply)
    assert few.cpu_seconds > 0
    assert many.cpu_seconds == pytest.approx(3 * few.cpu_seconds)


def test_an_error_reaches_only_whose_it_is(answering: BatchDenoiser) -> None:
    """Class 99 is in no network, but nobody can know before the forward pass."""
    x_t, sigma, condition = arrays(2)
    good, bad, other = answering.outcomes(requests(arrays(2), (x_t, sigma, condition + 99), arrays(2, seed=5)))
    assert isinstance(bad, RuntimeError) and "num_classes" in str(bad)
    expected = alone(answering, arrays(2), arrays(2, seed=5))
    for outcome, single in zip((good, other), expected, strict=True):
        assert isinstance(outcome, Reply)
        assert np.array_equal(outcome.array, single.array)


def test_what_is_not_a_number_stays_in_its_request(answering: BatchDenoiser) -> None:
    x_t, sigma, condition = arrays(2)
    asked = [arrays(2, seed=1), (x_t * np.float32("nan"), sigma, condition), arrays(2, seed=2)]
    (before, nan, after), singles = answering.outcomes(requests(*asked)), alone(answering, *asked)
    assert isinstance(nan, Reply) and np.isnan(nan.array).all()
    for outcome, single in ((before, singles[0]), (after, singles[2])):
        assert isinstance(outcome, Reply)
        np.testing.assert_allclose(outcome.array, single.array, rtol=0, atol=1e-5)


def test_malformed_requests_keep_to_themselves(answering: BatchDenoiser) -> None:
    x_t, sigma, condition = arrays(4)
    short, scalar = requests((x_t, sigma[:3], condition), (x_t, sigma[0], condition))
    assert len({short.form, scalar.form, requests(arrays(4))[0].form}) == 3
    assert all(isinstance(answering.outcomes([r])[0], Exception) for r in (short, scalar))


Batches = list[list[int]]


def batches_of(config: PoolConfig, put: Callable[[RequestQueue], list[Request]], number: int) -> Batches:
    """The images of each request, forward pass by forward pass."""

    async def run() -> Batches:
        queue = RequestQueue(config)
        put(queue)
        return [[r.samples for r in await asyncio.wait_for(queue.next(), 10)] for _ in range(number)]

    return asyncio.run(run())


def test_requests_of_one_form_are_joined_up_to_the_largest_batch() -> None:
    def put(queue: RequestQueue) -> list[Request]:
        sizes = [(3, 8), (2, 4), (6, 8), (5, 8)]  # images, pixels
        return [queue.put("denoise", arrays(n, size=size)) for n, size in sizes]

    assert batches_of(JOINED, put, 3) == [[3, 5], [2], [6]]
    assert batches_of(PoolConfig(), put, 4) == [[3], [2], [6], [5]]


def test_kinds_are_not_mixed_and_one_too_large_is_alone() -> None:
    def put(queue: RequestQueue) -> list[Request]:
        asked = [("denoise", 2), ("vjp", 2), ("denoise", 20), ("vjp", 1)]
        return [queue.put(kind, arrays(n)) for kind, n in asked]

    assert batches_of(JOINED, put, 3) == [[2], [2, 1], [20]]


def test_one_who_comes_within_the_wait_joins_and_nobody_waits_for_ever() -> None:
    async def run() -> tuple[int, int]:
        queue = RequestQueue(JOINED)
        queue.put("denoise", arrays(1))
        coming = asyncio.create_task(queue.next())
        await asyncio.sleep(0)
        queue.put("denoise", arrays(1))
        together = await coming
        queue.put("denoise", arrays(1))
        begin = time.monotonic()
        single = await queue.next()
        assert time.monotonic() - begin >= JOINED.max_wait_ms / 1000 - 1e-3
        return len(together), len(single)

    assert asyncio.run(run()) == (2, 1)


def test_a_full_queue_refuses() -> None:
    async def run() -> None:
        queue = RequestQueue(JOINED)
        kept = [queue.put("denoise", arrays(8)) for _ in range(JOINED.max_queue)]
        with pytest.raises(QueueFullError):
            queue.put("denoise", arrays(1))
        assert await queue.next() == kept[:1]
        queue.put("denoise", arrays(1))

    asyncio.run(run())


def test_a_request_whose_asker_gave_up_is_not_computed_and_takes_no_room() -> None:
    async def run() -> None:
        queue = RequestQueue(JOINED)
        first, *others = [queue.put("denoise", arrays(8)) for _ in range(JOINED.max_queue)]
        first.answer.cancel()
        last = queue.put("denoise", arrays(8))
        assert [await queue.next() for _ in range(4)] == [[r] for r in (*others, last)]
        queue.put("denoise", arrays(1)).answer.cancel()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.next(), 0.1)

    asyncio.run(run())
