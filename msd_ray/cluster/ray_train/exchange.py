"""Between a slot, which says how far its student may go, and the workers that share the student. Knows no Ray."""

import threading
from dataclasses import dataclass, field, replace
from typing import Any

from msd_ray.cluster.work import Progress
from msd_ray.errors import TrainingError


@dataclass(frozen=True)
class Grant:
    """nimg: the image that the workers may train up to. replicas: of the teacher. over: they are to end, with a
    checkpoint of what they have."""

    nimg: int
    replicas: list[Any] = field(default_factory=list)
    over: bool = False


class Exchange:
    """The slot's thread on one side, the workers' calls on the other. Workers that take over from dead ones begin with
    telling what the newest checkpoint has; what was ordered stays."""

    def __init__(self, progress: Progress) -> None:
        """progress: where the student stands before there are workers."""
        self._changed = threading.Condition()
        self._progress = self._live = progress
        self._grant = Grant(progress.nimg, over=True)
        self._ended, self._error, self._final = True, "", False

    @property
    def progress(self) -> Progress:
        """Where the student's newest checkpoint stands."""
        return self._progress

    @property
    def live(self) -> Progress:
        """Where the student stands on the way to its next checkpoint."""
        return self._live

    @property
    def over(self) -> bool:
        """Whether the workers are to end, or have ended."""
        return self._grant.over

    def order(self, images: int, replicas: list[Any]) -> None:
        """The slot lets the workers train `images` more images."""
        with self._changed:
            self._grant = Grant(self._progress.nimg + images, replicas, over=self._progress.done)
            self._ended, self._error, self._final = False, "", False

    def close(self) -> None:
        """The slot makes the workers end at the next chance."""
        with self._changed:
            self._grant = replace(self._grant, over=True)

    def end(self, error: str = "", final: bool = True) -> None:
        """No worker is left. error: why, unless one of them gave up and said so itself; final: another try would meet
        it as well."""
        with self._changed:
            if error and not self._error:
                self._error, self._final = error, final
            self._ended = True
            self._changed.notify_all()

    def wait(self, seconds: float) -> Progress | None:
        """Where the student stands once the order is carried out or no worker is left; None where neither is the case
        after so many seconds. Raises TrainingError where the workers could not go on, RuntimeError where they might in
        another process."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._ended or self._carried_out(), seconds):
                return None
            if self._error:
                raise TrainingError(self._error) if self._final else RuntimeError(self._error)
            return self._progress

    def tell(self, progress: Progress | None, live: Progress | None = None) -> Grant:
        """A worker tells where the student's newest checkpoint stands, or with `live` how far it has come since, or
        with neither asks only how far it may go."""
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
