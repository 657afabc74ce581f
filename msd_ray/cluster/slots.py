"""Where students train, as the driver sees it: what it asks of slots, and what they report."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from msd_ray.cluster.work import Progress, Segment


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
    """The support of students that bring their own teacher, or need none."""

    replicas: ClassVar[list[Any]] = []
    ready = True

    def tick(self) -> None:
        """Nothing to look after."""


@dataclass(frozen=True)
class Up:
    """A slot that was asked for is there. gpus: the numbers of those that it was given on its node, "" for none."""

    slot: int
    node: str
    gpus: str = ""


@dataclass(frozen=True)
class Ended:
    """A segment is over."""

    slot: int
    progress: Progress


@dataclass(frozen=True)
class Failed:
    """A segment ended with an error of our own, which another try would meet as well."""

    slot: int
    reason: str


@dataclass(frozen=True)
class Moving:
    """A segment is under way, and has come so far; nothing of it is saved yet. progress: None where its student is
    still being read."""

    slot: int
    progress: Progress | None


@dataclass(frozen=True)
class Leaving:
    """The slot's node will go soon; a checkpoint now saves its work."""

    slot: int


@dataclass(frozen=True)
class Gone:
    """A slot died, or is to end since an error that is not ours came out of its segment: that says nothing about the
    student, and what the process does from now on is not to be trusted. excused: with its node, so that its student is
    not to blame."""

    slot: int
    reason: str
    excused: bool = False


Event = Up | Ended | Failed | Moving | Leaving | Gone


class Slots(Protocol):
    """Where students train: actors on a cluster, or a simulation of them. A slot that is asked for is `Up` some time
    later, or never."""

    def room(self) -> int:
        """How many slots seem to fit, those there are included."""
        ...

    def groups(self) -> dict[str, int]:
        """The nodes that slots may be on, and how many groups of GPUs each has for them, 1 where slots take none."""
        ...

    def ask(self, slot: int) -> None: ...

    def give(self, slot: int, order: Segment) -> None: ...

    def hurry(self, slot: int) -> None:
        """Makes the segment under way end soon, with a checkpoint."""
        ...

    def drop(self, slot: int) -> None: ...

    def wait(self, seconds: float) -> list[Event]:
        """What happened, as soon as anything has; nothing after so many seconds."""
        ...

    def now(self) -> float:
        """Seconds on a clock that never goes back."""
        ...
