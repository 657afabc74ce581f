"""Hedged requests: if an answer takes too long, another replica is asked as well, since the first may hang."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar


def give_up(work: Iterable[asyncio.Future[Any]]) -> None:
    """Cancels open tasks, and reads the errors of failed ones, which asyncio would report otherwise."""
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
    """least: seconds before a second question. The usual time of a key is the longest of its recent answers, so that
    nothing is asked twice if all answers are slow."""

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
                    took = loop.time() - began if len(open_ones) == 1 else 0.0  # a hedged answer's own time is unknown
                    self._usual[key] = max(took, _FORGET * self._usual[key])
                    return answer
                open_ones.append(asyncio.ensure_future(ask()))
        finally:
            give_up(open_ones)
