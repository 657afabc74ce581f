"""Callers that ask a server again and again, each as soon as it is answered; and what that gives."""

import random
import time
from asyncio import gather
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Ask = Callable[[list[int], list[int]], Awaitable[list[bytes]]]  # classes and seeds to encoded images
Figures = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One kind of load. images: of a request. callers: at once. seconds, requests: which of them is over first ends
    it; each caller asks at least once."""

    images: int
    callers: int
    seconds: float
    requests: int


async def measure(ask: Ask, cell: Cell, classes: int) -> Figures:
    """Images per second and the times that requests took, in milliseconds."""
    took: list[float] = []
    begin = time.perf_counter()

    async def caller(number: int) -> None:
        rng, first = random.Random(number), True
        while first or (len(took) < cell.requests and time.perf_counter() < begin + cell.seconds):
            first, asked = False, time.perf_counter()
            await ask(*_request(rng, cell.images, classes))
            took.append(1000 * (time.perf_counter() - asked))

    await gather(*map(caller, range(cell.callers)))
    seconds = time.perf_counter() - begin
    p50, p99 = np.percentile(took, [50, 99])
    return {
        "requests": len(took),
        "images_per_second": len(took) * cell.images / seconds,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
    }


def _request(rng: random.Random, images: int, classes: int) -> tuple[list[int], list[int]]:
    return [rng.randrange(classes) for _ in range(images)], [rng.getrandbits(63) for _ in range(images)]
