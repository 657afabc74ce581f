"""What came of each version's images."""

from collections import defaultdict
from dataclasses import dataclass


@dataclass
class Count:
    """images: made. failures: errands that came to nothing. queue_ms, compute_ms: sums over the images."""

    images: int = 0
    failures: int = 0
    queue_ms: float = 0.0
    compute_ms: float = 0.0


class Tally:
    """One count for each version."""

    def __init__(self) -> None:
        self._counts: dict[str, Count] = defaultdict(Count)

    def made(self, version: str, queue_ms: float, compute_ms: float) -> None:
        count = self._counts[version]
        count.images += 1
        count.queue_ms += queue_ms
        count.compute_ms += compute_ms

    def failed(self, version: str) -> None:
        self._counts[version].failures += 1

    def of(self, version: str) -> Count:
        return self._counts[version]
