"""Several stages of load, one after the other, on one service."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from msd_ray.serving.client import Connection
from msd_ray.serving.load.figures import Figures, figures_of
from msd_ray.serving.load.stages import Record, Stage, run_stage
from msd_ray.serving.load.target import Mix, Target

SAY_EVERY = 0.25
"""Seconds."""
Watch = Callable[[Record], None]
Done = Callable[[Figures], None]


async def load_test(
    where: Connection,
    stages: Sequence[Stage],
    mix: Mix,
    seconds: float,
    tries: int,
    stopped: Callable[[], bool],
    watch: Watch,
    done: Done,
) -> list[Figures]:
    """The figures of each stage; of those so far once `stopped` says so.

    mix: without conditions all classes of the service. seconds, tries: of a request. watch: is shown the stage that
    runs, four times a second. done: is shown the figures of each that ended. Raises UserError if the service cannot be
    reached, or refuses the mix.
    """
    target, found = Target(where, seconds, tries), list[Figures]()
    try:
        mix = await target.ready(mix)
        for number, stage in enumerate(stages):
            if stopped():
                break
            found.append(await _stage(target, stage, number, mix, stopped, watch))
            done(found[-1])
    finally:
        await target.close()
    return found


async def _stage(
    target: Target, stage: Stage, number: int, mix: Mix, stopped: Callable[[], bool], watch: Watch
) -> Figures:
    record = Record(stage)
    running = asyncio.create_task(run_stage(lambda i: target.ask(mix.request(number, i)), record, mix.seed))
    while not running.done() and not stopped():
        await asyncio.wait([running], timeout=SAY_EVERY)
        watch(record)
    figures = figures_of(record)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    return figures
