"""Work that nobody waits for any more."""

import asyncio
from collections.abc import Iterable
from typing import Any


def give_up(work: Iterable[asyncio.Future[Any]]) -> None:
    """Cancels what is not done, and takes note of what failed, which asyncio would report otherwise."""
    for each in work:
        each.cancel()
        if each.done() and not each.cancelled():
            each.exception()
