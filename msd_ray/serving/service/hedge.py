"""Asking again beside a question that has been open for too long: its replica may have stopped without a word."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar


def give_up(work: Iterable[asyncio.Future[Any]]) -> None:
    """Cancels what is not done, and takes note of what failed, which asyncio would report otherwise."""
    for each in work:
        each.cancel()
        if each.done() and not each.cancelled():
            each.exception()


LEAST = 5.0  # seconds that an answer may always take
TIMES = 4.0  # and how much longer than usual
MOST = 3  # questions at once
_FORGET = 0.95
_Answer = TypeVar("_Answer")


class Hedge:
    """least: seconds before another question. What is usual for a key is the longest of its recent answers, so that
    where all are slow nothing is asked twice."""

    def __init__(self, least: float = LEAST) -> None:
        self._least, self._usual = least, defaultdict[str, float](float)

    async def first(self, key: str, ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """The first answer, or error, of up to MOST questions; those that are still open then are cancelled."""
        loop = asyncio.get_running_loop()
        began, open_ones = loop.time(), [asyncio.ensure_future(ask())]
        try:
            while True:
                wait = max(self._least, TIMES * self._usual[key]) if len(open_ones) < MOST else None
                done, _ = await asyncio.wait(open_ones, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                if done:
                    answer = done.pop().result()
                    took = loop.time() - began if len(open_ones) == 1 else 0.0  # the others' time is no answer's
                    self._usual[key] = max(took, _FORGET * self._usual[key])
                    return answer
                open_ones.append(asyncio.ensure_future(ask()))
        finally:
            give_up(open_ones)
