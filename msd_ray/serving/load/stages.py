"""Requests sent by callers that take turns, or at times that do not depend on the answers. Nothing here knows gRPC.

With a closed loop a slow service is asked less often, so its latencies look better than those of people who come when
they like. An open loop sends each request when it is due, and its latency counts from then on, also if this process
sent it late.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stage:
    """callers: how many ask at once, each again as soon as it is answered; or rate: requests per second on average, at
    random times (a Poisson process). The other one is 0. seconds: in which requests are sent. requests: a closed loop
    ends after so many, if that is sooner; each caller asks at least once."""

    callers: int = 0
    rate: float = 0.0
    seconds: float = 10.0
    requests: int | None = None

    def __str__(self) -> str:
        return f"{self.callers} callers" if self.callers else f"{self.rate:g}/s"


@dataclass(frozen=True)
class Outcome:
    """What became of a request. code: the name of its gRPC status. retries: further tries. shed: tries that were
    refused with RESOURCE_EXHAUSTED."""

    code: str = "OK"
    images: int = 0
    retries: int = 0
    shed: int = 0


@dataclass(frozen=True)
class Answer:
    """due, sent, done: seconds since the stage began."""

    due: float
    sent: float
    done: float
    outcome: Outcome


Ask = Callable[[int], Awaitable[Outcome]]
"""Sends the request of that number, and waits for what becomes of it."""


@dataclass
class Record:
    """A stage as far as it has come. asked: requests that were sent. answers: of those that ended, the first to end
    first."""

    stage: Stage
    asked: int = 0
    answers: list[Answer] = field(default_factory=list)
    began: float = field(default_factory=lambda: asyncio.get_running_loop().time())

    @property
    def seconds(self) -> float:
        """Since the stage began."""
        return asyncio.get_running_loop().time() - self.began

    async def ask(self, ask: Ask, due: float | None = None) -> None:
        number, sent = self.asked, self.seconds
        self.asked += 1
        outcome = await ask(number)
        self.answers.append(Answer(sent if due is None else due, sent, self.seconds, outcome))


async def run_stage(ask: Ask, record: Record, seed: int = 0) -> None:
    """Sends all requests of the record's stage, and waits until each has ended. If this is cancelled, the record has
    what had ended until then. seed: of the times in an open loop."""
    if record.stage.callers:
        await _closed_loop(ask, record)
    else:
        await _open_loop(ask, record, arrivals(record.stage.rate, record.stage.seconds, seed))


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """The times of a Poisson process with `rate` events per second, from 0 to `seconds`, rising."""
    rng, times, now = random.Random(f"arrivals {rate} {seed}"), list[float](), 0.0
    while (now := now + rng.expovariate(rate)) < seconds:
        times.append(now)
    return times


async def _closed_loop(ask: Ask, record: Record) -> None:
    stage = record.stage

    async def caller() -> None:
        await record.ask(ask)
        while record.seconds < stage.seconds and (stage.requests is None or len(record.answers) < stage.requests):
            await record.ask(ask)

    async with asyncio.TaskGroup() as group:
        for _ in range(stage.callers):
            group.create_task(caller())


async def _open_loop(ask: Ask, record: Record, times: list[float]) -> None:
    async with asyncio.TaskGroup() as group:
        for due in times:
            await asyncio.sleep(max(0.0, due - record.seconds))
            group.create_task(record.ask(ask, due))
