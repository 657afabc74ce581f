"""When requests are sent, and from when their latency counts."""

import asyncio
import time

import numpy as np
import pytest
from scipy.stats import kstest

from msd_ray.serving.load.stages import Outcome, Record, Stage, arrivals, run_stage


async def recorded(stage: Stage, seconds: float = 0.0) -> Record:
    """A stage against a service that takes so long."""

    async def ask(number: int) -> Outcome:
        await asyncio.sleep(seconds)
        return Outcome("OK", 1)

    record = Record(stage)
    await run_stage(ask, record)
    return record


@pytest.mark.parametrize("rate", [0.5, 20.0, 300.0])
def test_arrivals_are_a_poisson_process_of_the_rate(rate: float) -> None:
    seconds = 4000 / rate
    times = np.array(arrivals(rate, seconds, seed=1))
    gaps, counts = np.diff(times, prepend=0.0), np.histogram(times, bins=400, range=(0, seconds))[0]
    assert (np.diff(times) > 0).all() and times[-1] < seconds
    assert abs(len(times) - 4000) < 4 * 4000**0.5
    assert kstest(gaps, "expon", args=(0, 1 / rate)).pvalue > 0.01
    assert abs(counts.var() / counts.mean() - 1) < 4 * (2 / 400) ** 0.5  # of a constant rate it would be about 0
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 4 / 4000**0.5


def test_arrivals_follow_from_the_seed() -> None:
    assert arrivals(5, 10, 0) == arrivals(5, 10, 0)
    assert arrivals(5, 10, 0) != arrivals(5, 10, 1)


def test_latency_counts_from_when_a_request_was_due() -> None:
    async def stalls(number: int) -> Outcome:
        if not number:
            time.sleep(0.4)
        return Outcome("OK", 1)

    async def go() -> Record:
        record = Record(Stage(rate=50, seconds=0.4))
        await run_stage(stalls, record)
        return record

    record = asyncio.run(go())
    due = arrivals(50, 0.4, 0)
    assert sorted(answer.due for answer in record.answers) == due
    for answer in record.answers:
        assert answer.done >= due[0] + 0.4
        assert answer.due == due[0] or answer.sent - answer.due >= due[0] + 0.4 - answer.due


def test_an_open_loop_does_not_wait_for_answers() -> None:
    record = asyncio.run(recorded(Stage(rate=40, seconds=0.5), seconds=1.0))
    assert max(answer.sent for answer in record.answers) < min(answer.done for answer in record.answers)
    assert record.asked == len(record.answers) == len(arrivals(40, 0.5, 0))


def test_callers_of_a_closed_loop_ask_again_once_they_are_answered() -> None:
    record = asyncio.run(recorded(Stage(callers=3, seconds=60, requests=12), seconds=0.01))
    times = [(answer.sent, 1) for answer in record.answers] + [(answer.done, -1) for answer in record.answers]
    assert max(np.cumsum([step for _, step in sorted(times)])) <= 3
    assert 12 <= len(record.answers) < 15 and all(answer.due == answer.sent for answer in record.answers)
    assert len(asyncio.run(recorded(Stage(callers=4, seconds=0))).answers) == 4


def test_a_record_has_what_had_ended_when_a_stage_is_cancelled() -> None:
    async def go() -> Record:
        async def ask(number: int) -> Outcome:
            await asyncio.sleep(0 if number < 5 else 60)
            return Outcome("OK", 1)

        record = Record(Stage(callers=2, seconds=60))
        running = asyncio.create_task(run_stage(ask, record))
        while record.asked < 7:
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return record

    record = asyncio.run(go())
    assert (record.asked, len(record.answers)) == (7, 5)
