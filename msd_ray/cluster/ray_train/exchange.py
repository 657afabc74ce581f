"""The exchange between a slot, which says how far its student may train, and the student's workers. Knows no Ray."""

import threading
from dataclasses import dataclass, field, replace
from typing import Any

from msd_ray.cluster.progress import Progress
from msd_ray.errors import TrainingError


@dataclass(frozen=True)
class Grant:
    """nimg: the image up to which the workers may train. replicas: of the teacher. over: they must end, with a
    checkpoint of their state."""

    nimg: int
    replicas: list[Any] = field(default_factory=list)
    over: bool = False


class Exchange:
    """The slot's thread is on one side, the workers' calls on the other. Workers that replace dead ones first report
    the newest checkpoint; the segment stays as it was ordered."""

    def __init__(self, progress: Progress) -> None:
        """progress: the student's before there are workers."""
        self._changed = threading.Condition()
        self._progress = self._live = progress
        self._grant = Grant(progress.nimg, over=True)
        self._ended, self._error, self._final = True, "", False

    @property
    def progress(self) -> Progress:
        """The progress of the student's newest checkpoint."""
        return self._progress

    @property
    def live(self) -> Progress:
        """The student's progress within the running segment."""
        return self._live

    @property
    def over(self) -> bool:
        """Whether the workers must end, or have ended."""
        return self._grant.over

    def order(self, images: int, replicas: list[Any]) -> None:
        """The slot lets the workers train `images` more images."""
        with self._changed:
            self._grant = Grant(self._progress.nimg + images, replicas, over=self._progress.done)
            self._ended, self._error, self._final = False, "", False

    def close(self) -> None:
        """The slot makes the workers end at the next update."""
        with self._changed:
            self._grant = replace(self._grant, over=True)

    def end(self, error: str = "", final: bool = True) -> None:
        """No worker is left. error: why, unless a worker has reported its error itself; final: another try would meet
        it as well."""
        with self._changed:
            if error and not self._error:
                self._error, self._final = error, final
            self._ended = True
            self._changed.notify_all()

    def wait(self, seconds: float) -> Progress | None:
        """The student's progress once the segment has ended or no worker is left; None if neither is so after so many
        seconds. Raises TrainingError if the workers cannot go on, RuntimeError if they may in another process."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._ended or self._carried_out(), seconds):
                return None
            if self._error:
                raise TrainingError(self._error) if self._final else RuntimeError(self._error)
            return self._progress

    def tell(self, progress: Progress | None, live: Progress | None = None) -> Grant:
        """A worker reports the student's newest checkpoint, or with `live` its progress since, or with neither only
        asks how far it may train."""
        with self._changed:
            self._live = progress or live or self._live
            if progress:
                self._progress = progress
                self._grant = replace(self._grant, over=self._grant.over or progress.done)
                self._changed.notify_all()
            return self._grant

    def give_up(self, reason: str) -> None:
        """A worker met an error that another try would meet as well."""
        with self._changed:
            self._error, self._final = self._error or reason, True
            self._grant = replace(self._grant, over=True)

    def _carried_out(self) -> bool:
        return not self._error and (self._progress.done or self._progress.nimg >= self._grant.nimg)
