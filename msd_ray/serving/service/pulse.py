"""Whether a student still makes images: its replica may answer while the thread that computes does not."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from msd_ray.serving.protocol.refusal import Refusal

IDLE = 10.0
"""Seconds without an image after which one is made for the sake of knowing."""
LONGEST, TIMES = 30.0, 20.0
"""An evaluation hangs once it has taken so many seconds, and so many times as long as the one before."""
FAILURES = 3
"""Evaluations in a row that failed, after which only another process may help: CUDA's errors stay."""


class Pulse:
    """Knows when evaluations began and how they ended. For use in one event loop."""

    def __init__(self, try_one: Callable[[], Awaitable[object]]) -> None:
        """try_one: makes an image, or raises Refusal."""
        self._try_one, self._trying = try_one, set[asyncio.Task[None]]()
        self._began: float | None = None
        self._ended, self._took, self._failures = time.monotonic(), 0.0, 0

    def watch(self, well: bool | None) -> None:
        """An evaluation begins (None), or has ended: whether it made its images."""
        now = time.monotonic()
        if well is None:
            self._began = now
        else:
            self._took, self._began = self._running(), None
            self._ended, self._failures = now, 0 if well else self._failures + 1

    @property
    def lost(self) -> bool:
        """Whether only another process will make images."""
        return self._hangs or self._failures >= FAILURES

    def why(self) -> str:
        """Why the student makes no images; empty if it does, as far as is known. Has an image made where that is not
        known, and does not wait for it."""
        if self._hangs:
            return f"an evaluation has not ended for {self._running():.0f} s"
        if self._began is None and (self._failures or time.monotonic() - self._ended > IDLE):
            self._try()
        return "its last evaluation failed" if self._failures else ""

    @property
    def _hangs(self) -> bool:
        return self._running() > max(LONGEST, TIMES * self._took)

    def _running(self) -> float:
        return 0.0 if self._began is None else time.monotonic() - self._began

    def _try(self) -> None:
        if not self._trying:
            task = asyncio.get_running_loop().create_task(self._one())
            self._trying.add(task)
            task.add_done_callback(self._trying.discard)

    async def _one(self) -> None:
        try:
            await self._try_one()
        except Refusal:  # callers wait already, or the evaluation failed, which `watch` was told
            return
