"""Tasks, their segments and their progress, as driver and slots exchange them. No Ray in here."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch

    from msd_ray.cluster.ray_train.exchange import Exchange


@dataclass(frozen=True)
class Progress:
    """A trainer's state after a segment. begin: the image at which the segment started. fid: of the student on its own
    classes, over fid_samples samples. waited: the share of the segment's time spent waiting for the teacher. beats:
    counts signs of life other than images. writing: whether its checkpoint is still being written, so that the one
    before counts if its process dies."""

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

    @classmethod
    def within(
        cls, nimg: int, stage: str, done: bool, loss: float, began: tuple[int, float] | None, beats: int
    ) -> "Progress":
        """The progress in the middle of a segment. began: the image and the time (of `time.perf_counter`) at which the
        segment began, None if there is no segment yet."""
        now = time.perf_counter()
        begin, start = began or (nimg, now)
        rate = (nimg - begin) / (now - start) if nimg > begin else 0.0
        return cls(nimg, stage, rate, done, loss=loss, begin=begin, beats=beats)

    @property
    def saved(self) -> int:
        """Images of the newest checkpoint that is whole."""
        return self.begin if self.writing else self.nimg

    @property
    def quality(self) -> str:
        """The FID as text, or the loss if there is no FID."""
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

        A thread may still be writing the checkpoint afterwards, except if the student is done, was hurried or trained
        on no image at all.
        """
        ...

    def current_progress(self) -> Progress:
        """The progress now; another thread asks for it during a segment, so it does not wait."""
        ...

    def rest(self) -> None:
        """Makes room for another student: releases everything except the memory that it needs to go on. Waits for its
        checkpoint first, and raises the error of writing it, if any."""
        ...


class SingleProcess:
    """The exchange of a training without workers."""

    exchange = None

    def rest(self) -> None:
        """Does nothing: between two segments it holds only memory."""


class Task(Protocol):
    """All that a slot needs to open a student's training; small, since it is sent to each slot that takes the
    student."""

    def open(self, known: int = 0) -> Training:
        """The trainer from its newest checkpoint. known: images of a checkpoint that is known to be written. Raises
        TrainingError if no checkpoint of so many images is visible here, so that the storage is not shared."""
        ...


@dataclass(frozen=True)
class ScheduledTask:
    """A task that the driver runs to its end. segment: images between checkpoints."""

    name: str
    images: int
    segment: int
    task: Task


@dataclass(frozen=True)
class Segment:
    """One segment for a slot. nimg: of the student as the driver knows it, None if it knows nothing yet. saved: images
    of its newest checkpoint that the driver knows to be written. parked: the other students that the slot may keep in
    memory. replicas: of the teacher pool."""

    student: int
    work: ScheduledTask
    nimg: int | None
    parked: frozenset[int] = frozenset()
    replicas: list[Any] = field(default_factory=list)
    saved: int = 0


Phase = Literal["waiting", "starting", "training", "measuring", "restarting", "done", "failed"]


@dataclass(frozen=True)
class StudentState:
    """A student's state, one line of the live view. failures: deaths in a row without progress. restarts: all deaths so
    far. slot: the one it trains in, None while it waits for one. progress: at the end of its last segment, with a
    checkpoint. live: within the running segment, None if there is none or it has not reported yet."""

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
        """The last report: between two segments, and at the beginning of one, the progress at the end of the last."""
        return self.live if self.live and (self.live.images_per_second or not self.progress) else self.progress

    @property
    def quality(self) -> str:
        """Its last FID as text, or its newest loss if there is no FID."""
        if self.progress and self.progress.fid is not None:
            return self.progress.quality
        return self.newest.quality if self.newest and self.newest.loss == self.newest.loss else ""

    @property
    def left(self) -> float | None:
        """Seconds of training that it still needs at its present speed, None if unknown."""
        now = self.newest
        return (self.images - now.nimg) / now.images_per_second if now and now.images_per_second else None

    @property
    def saved(self) -> int:
        """Images of its newest checkpoint that is known to be whole."""
        return self.progress.saved if self.progress else 0

    @property
    def doing(self) -> Phase:
        """The state as people read it: a student between two turns waits."""
        return self.state if self.slot is not None or self.state in ("done", "failed") else "waiting"


class Watch(Protocol):
    """An observer of the driver."""

    def watch(self, statuses: list[StudentState]) -> None:
        """Called after each event, and each TICK. An error in it ends the run."""
        ...

    def event(self, kind: str, **facts: Any) -> None: ...
