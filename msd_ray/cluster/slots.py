"""Slots as the driver sees them: its requests to them, and the events that they report."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from msd_ray.cluster.progress import Progress
from msd_ray.cluster.work import Segment


class TeacherReplicas(Protocol):
    """The teacher pool as the driver sees it."""

    @property
    def replicas(self) -> list[Any]: ...

    @property
    def ready(self) -> bool: ...

    def tick(self) -> None:
        """Called by the driver every second or so; does not wait."""
        ...


class NoPool:
    """Stands for the pool if students load the teacher themselves, or need none."""

    replicas: ClassVar[list[Any]] = []
    ready = True

    def tick(self) -> None:
        """Does nothing."""


@dataclass(frozen=True)
class Up:
    """A slot that the driver asked for has started. gpus: the numbers of its GPUs on its node, "" for none."""

    slot: int
    node: str
    gpus: str = ""


@dataclass(frozen=True)
class Ended:
    """A segment has ended well."""

    slot: int
    progress: Progress


@dataclass(frozen=True)
class Failed:
    """A segment ended with an error of msd_ray's own, which another try would meet as well."""

    slot: int
    reason: str


@dataclass(frozen=True)
class Moving:
    """The progress of a running segment, none of which is saved yet. progress: None while its student is being read."""

    slot: int
    progress: Progress | None


@dataclass(frozen=True)
class Leaving:
    """The slot's node will be taken away soon; a checkpoint now saves its work."""

    slot: int


@dataclass(frozen=True)
class Gone:
    """A slot died, or must end because its segment raised an error that is not msd_ray's own: such an error says
    nothing about the student, and the process can no longer be trusted. excused: it died with its node, so its student
    is not to blame."""

    slot: int
    reason: str
    excused: bool = False


Event = Up | Ended | Failed | Moving | Leaving | Gone


class Slots(Protocol):
    """The slots of a run: actors on a cluster, or a simulation of them. A slot that the driver asks for is `Up` some
    time later, or never."""

    def room(self) -> int:
        """An estimate of how many slots fit, including those that are up."""
        ...

    def groups(self) -> dict[str, int]:
        """The nodes that slots may be on, and how many groups of GPUs each has for them, 1 where slots take none."""
        ...

    def ask(self, slot: int) -> None: ...

    def give(self, slot: int, order: Segment) -> None: ...

    def hurry(self, slot: int) -> None:
        """Makes the running segment end soon, with a checkpoint."""
        ...

    def drop(self, slot: int) -> None: ...

    def wait(self, seconds: float) -> list[Event]:
        """Waits for events and returns them; returns none if there is no event for so many seconds."""
        ...

    def now(self) -> float:
        """Seconds on a clock that never goes back."""
        ...
