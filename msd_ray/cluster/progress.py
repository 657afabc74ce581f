"""How far a training is, and how a student stands, as slots report it and the driver tells it."""

import time
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from msd_ray.training.utilisation import Utilisation

Phase = Literal["waiting", "starting", "training", "measuring", "restarting", "done", "failed"]


@dataclass(frozen=True)
class Progress:
    """A trainer's state after a segment. begin: the image at which the segment started. fid: of the student on its own
    classes, over fid_samples samples. waited: the share of the segment's time spent waiting for the teacher. beats:
    counts signs of life other than images. writing: whether its checkpoint is still being written, so that the one
    before counts if its process dies. used: how much of its device the segment used, where that was counted."""

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
    used: Utilisation | None = None

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


@dataclass(frozen=True)
class StudentState:
    """A student's state, one line of the live view. failures: deaths in a row without progress. restarts: all deaths so
    far. slot: the one it trains in, None while it waits for one. progress: at the end of its last segment, with a
    checkpoint. live: within the running segment, None if there is none or it has not reported yet. trunk: the name of
    the student that it branches off from, begins: where."""

    name: str
    images: int
    state: Phase = "waiting"
    progress: Progress | None = None
    live: Progress | None = None
    failures: int = 0
    restarts: int = 0
    error: str = ""
    slot: int | None = None
    begins: int = 0
    trunk: str = ""

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
