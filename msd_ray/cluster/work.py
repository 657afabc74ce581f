"""What the driver sees through, and what a slot is told to do. No Ray in here."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from msd_ray.cluster.ray_train.exchange import Exchange
from typing import Literal


@dataclass(frozen=True)
class Progress:
    """Where a trainer stands after a segment. begin: the image it started the segment from. fid: of the student on
    its own classes, over fid_samples samples. waited: the share of the segment's time spent waiting for the teacher.
    beats: counts signs of life that are no images, where there are such within a segment. writing: whether its
    checkpoint is still being written, so that the one before counts if its process dies."""

    nimg: int
    stage: str
    images_per_second: float
    done: bool
    loss: float = float("nan")
    fid: float | None = None
    fid_samples: int = 0
    begin: int = 0
    waited: float = 0.0
    beats: int = 0
    writing: bool = False

    @property
    def saved(self) -> int:
        """Images of the newest checkpoint that is whole."""
        return self.begin if self.writing else self.nimg

    @property
    def quality(self) -> str:
        """How good it is, as people read it: the FID, or the loss where there is none."""
        return f"loss {self.loss:.3f}" if self.fid is None else f"fid@{self.fid_samples} {self.fid:.3g}"


class Training(Protocol):
    """A trainer in the process of a slot. nimg: images it has seen. bytes: the memory it holds on its `device`.
    exchange: where workers that train the student together ask how far they may go, None where there are none."""

    @property
    def exchange(self) -> "Exchange | None": ...

    @property
    def nimg(self) -> int: ...

    @property
    def bytes(self) -> int: ...

    @property
    def device(self) -> "torch.device": ...

    def advance(self, images: int, replicas: list[Any], hurried: Callable[[], bool]) -> Progress:
        """Trains on `images` more images, fewer once `hurried()`, and writes a checkpoint. replicas: of the teacher.

        The checkpoint may still be being written afterwards, but not where the student is done, hurried or trained on
        no image at all.
        """
        ...

    def current_progress(self) -> Progress:
        """Where it stands now; asked from another thread while it advances, so it does not wait."""
        ...

    def rest(self) -> None:
        """Another student comes: keeps nothing but memory, and of that no more than it needs to go on. Ends the writing
        of its checkpoint first; raises what went wrong with it."""
        ...


class SingleProcess:
    """What a training without workers says of them."""

    exchange = None

    def rest(self) -> None:
        """Between two segments it keeps nothing but memory anyhow."""


class Task(Protocol):
    """What one student's training is made from; small, and sent to whichever slot takes it."""

    def open(self, known: int = 0) -> Training:
        """The trainer as its newest checkpoint has it. known: images of one that is known to be written. Raises
        TrainingError where there is none of so many images to be seen, so that the storage is not the same."""
        ...


@dataclass(frozen=True)
class ScheduledTask:
    """A task that the driver is to see through. segment: images between checkpoints."""

    name: str
    images: int
    segment: int
    task: Task


@dataclass(frozen=True)
class Segment:
    """One segment for a slot. nimg: where the driver knows the student to be, None if it never heard of it. saved:
    images of its newest checkpoint that the driver knows to be written. parked: the other students that the slot may
    go on holding in memory. replicas: of the teacher pool."""

    student: int
    work: ScheduledTask
    nimg: int | None
    parked: frozenset[int] = frozenset()
    replicas: list[Any] = field(default_factory=list)
    saved: int = 0


Phase = Literal["waiting", "starting", "training", "measuring", "restarting", "done", "failed"]


@dataclass(frozen=True)
class StudentState:
    """One line of the live view. failures: deaths in a row without progress. restarts: all deaths so far. slot: the
    one it trains in, None while it waits for one. progress: at the end of its last segment, with a checkpoint; live:
    within the one under way, None where there is none or nothing was heard of it yet."""

    name: str
    images: int
    state: Phase = "waiting"
    progress: Progress | None = None
    live: Progress | None = None
    failures: int = 0
    restarts: int = 0
    error: str = ""
    slot: int | None = None

    @property
    def newest(self) -> Progress | None:
        """What was heard of it last: between two segments, and at the beginning of one, how its last one ended."""
        return self.live if self.live and (self.live.images_per_second or not self.progress) else self.progress

    @property
    def quality(self) -> str:
        """How good it is, as people read it: its last FID, or its newest loss where there is none."""
        if self.progress and self.progress.fid is not None:
            return self.progress.quality
        return self.newest.quality if self.newest and self.newest.loss == self.newest.loss else ""

    @property
    def left(self) -> float | None:
        """Seconds of training that it still needs at its present speed, None where that is not known."""
        now = self.newest
        return (self.images - now.nimg) / now.images_per_second if now and now.images_per_second else None

    @property
    def saved(self) -> int:
        """Images of its newest checkpoint that is known to be whole."""
        return self.progress.saved if self.progress else 0

    @property
    def doing(self) -> Phase:
        """The state as people read it: who is between two turns waits."""
        return self.state if self.slot is not None or self.state in ("done", "failed") else "waiting"


class Watch(Protocol):
    """Who is told what happens."""

    def watch(self, statuses: list[StudentState]) -> None:
        """Called after each event, and each TICK; what it raises ends the run."""
        ...

    def event(self, kind: str, **facts: Any) -> None: ...
