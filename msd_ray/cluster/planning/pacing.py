"""How long the steps of a simulated student take."""

from dataclasses import dataclass
from typing import Protocol

from msd_ray.cluster.planning.contention import Effort


class Pacing(Protocol):
    """Seconds at speed 1 that things take a slot which has all it needs. start: from asking for it to its first order.
    open: to read a student from its checkpoint. segment: what ends a segment, its checkpoint above all."""

    @property
    def start(self) -> float: ...

    @property
    def open(self) -> float: ...

    @property
    def segment(self) -> float: ...

    def training(self, student: int, begin: int, images: int) -> Effort:
        """To train a student on `images` more images, `begin` of which it has seen."""
        ...


@dataclass(frozen=True)
class Pace:
    """The pacing of students that are all alike. image: seconds for each."""

    image: float
    segment: float = 0.0
    open: float = 0.0
    start: float = 0.0

    def training(self, student: int, begin: int, images: int) -> Effort:
        return Effort(images * self.image)
