"""How much a replica has to do: how long images wait, and for how much of the time it computes."""

import time
from collections.abc import Callable, Sequence


class Strain:
    """What was seen since the last look. clock: steady seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._since = clock, clock()
        self._images, self._waited, self._computed = 0, 0.0, 0.0

    def evaluated(self, waits: Sequence[float], seconds: float) -> None:
        """An evaluation that took so long, of images that had waited so long before it."""
        self._images += len(waits)
        self._waited += sum(waits)
        self._computed += seconds

    def look(self, oldest: float) -> tuple[float, float]:
        """The mean wait of images that were evaluated since the last look, in seconds, and the share of the time in
        which there was an evaluation, 0 to 1. oldest: for how long the oldest image waits now, which counts if there
        was no evaluation."""
        now = self._clock()
        delay = self._waited / self._images if self._images else oldest
        busy = min(1.0, self._computed / max(now - self._since, 1e-9))
        self._since, self._images, self._waited, self._computed = now, 0, 0.0, 0.0
        return delay, busy
