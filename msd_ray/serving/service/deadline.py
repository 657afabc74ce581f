"""The time of a request."""

import asyncio
from typing import Any

from msd_ray.serving.protocol.refusal import Refusal


class Deadline:
    """The time of a request, from now on."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._end = seconds, asyncio.get_running_loop().time() + seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - asyncio.get_running_loop().time()

    async def meet(self, work: Any) -> Any:
        """The result of some work. Raises Refusal if it is not done in time."""
        try:
            async with asyncio.timeout_at(self._end):
                return await work
        except TimeoutError:
            raise Refusal("DEADLINE_EXCEEDED", f"not done within {self._seconds:.3g} s") from None
