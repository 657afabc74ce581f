"""A replica's measurements of itself. Knows no Ray; all times are by `time.monotonic`."""

from collections import deque
from dataclasses import dataclass

import numpy as np

WINDOW = 10.0  # seconds that count as recent


@dataclass(frozen=True)
class Forward:
    """A forward pass that has ended. delays: the seconds that each of its requests waited."""

    began: float
    ended: float
    images: int
    delays: tuple[float, ...]
    cpu_seconds: float


@dataclass(frozen=True)
class ReplicaMetrics:
    """Since the replica started: requests and images answered, forward passes, requests refused, CPU seconds of maths.

    Recently: quantiles of the queue delay, in which requests that still wait count with their time so far; images per
    forward pass; utilisation, the share of the time in which something was computed. Now: waiting, requests; computing,
    seconds that the forward pass under way has taken so far. longest: seconds, of all forward passes.
    """

    requests: int = 0
    images: int = 0
    forwards: int = 0
    refused: int = 0
    cpu_seconds: float = 0.0
    waiting: int = 0
    queue_p50_ms: float = 0.0
    queue_p99_ms: float = 0.0
    batch: float = 0.0
    utilisation: float = 0.0
    computing: float = 0.0
    longest: float = 0.0


class ReplicaMeter:
    """Counts forward passes, and remembers the recent ones. refused: the refusing code counts these."""

    def __init__(self, now: float) -> None:
        self._born = now
        self._running: float | None = None  # since when
        self._recent: deque[Forward] = deque()
        self._requests = self._images = self._forwards = 0
        self._cpu_seconds = self._longest = 0.0
        self.refused = 0

    def begin(self, now: float) -> None:
        self._running = now

    def end(self, forward: Forward) -> None:
        self._running = None
        self._recent.append(forward)
        self._requests += len(forward.delays)
        self._images += forward.images
        self._forwards += 1
        self._cpu_seconds += forward.cpu_seconds
        self._longest = max(self._longest, forward.ended - forward.began)
        self._forget(forward.ended)

    def read(self, waiting: list[float], now: float) -> ReplicaMetrics:
        """waiting: when the requests arrived that still wait."""
        self._forget(now)
        delays = [d for f in self._recent for d in f.delays] + [now - arrived for arrived in waiting]
        p50, p99 = np.quantile(delays, [0.5, 0.99]) if delays else (0.0, 0.0)
        return ReplicaMetrics(
            self._requests,
            self._images,
            self._forwards,
            self.refused,
            self._cpu_seconds,
            len(waiting),
            1000 * float(p50),
            1000 * float(p99),
            sum(f.images for f in self._recent) / max(1, len(self._recent)),
            self._busy(now) / max(1e-9, now - max(self._born, now - WINDOW)),
            computing=0.0 if self._running is None else now - self._running,
            longest=self._longest,
        )

    def _busy(self, now: float) -> float:
        """Seconds of the recent past in which something was computed."""
        begin = now - WINDOW
        running = 0.0 if self._running is None else now - max(begin, self._running)
        return running + sum(f.ended - max(begin, f.began) for f in self._recent)

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0].ended < now - WINDOW:
            self._recent.popleft()
