"""Callers that ask a server again and again, each as soon as it is answered; and what that gives."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from msd_ray.serving.load.figures import figures_of
from msd_ray.serving.load.stages import Outcome, Record, Stage, run_stage

Ask = Callable[[list[int], list[int]], Awaitable[list[bytes]]]  # classes and seeds to encoded images
Figures = dict[str, Any]
SHOWN = ("requests", "images_per_second", "p50_ms", "p99_ms")


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

    async def once(number: int) -> Outcome:
        rng = random.Random(number)
        seeds = [rng.getrandbits(63) for _ in range(cell.images)]
        await ask([rng.randrange(classes) for _ in seeds], seeds)
        return Outcome("OK", cell.images)

    record = Record(Stage(callers=cell.callers, seconds=cell.seconds, requests=cell.requests))
    await run_stage(once, record)
    found = figures_of(record).to_json()
    return {name: found[name] for name in SHOWN}
