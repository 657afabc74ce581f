"""How each student stands, and who is told of it."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from msd_ray.cluster.work import Progress

State = Literal["waiting", "starting", "training", "measuring", "restarting", "done", "failed"]


@dataclass(frozen=True)
class Status:
    """One line of the live view. failures: deaths in a row without progress. restarts: all deaths so far. slot: the
    one it trains in, None while it waits for one. progress: at the end of its last segment, with a checkpoint; live:
    within the one under way, None where there is none or nothing was heard of it yet."""

    name: str
    images: int
    state: State = "waiting"
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
    def doing(self) -> State:
        """The state as people read it: who is between two turns waits."""
        return self.state if self.slot is not None or self.state in ("done", "failed") else "waiting"


class Watch(Protocol):
    """Who is told what happens."""

    def watch(self, statuses: list[Status]) -> None:
        """Called after each event, and each TICK; what it raises ends the run."""
        ...

    def event(self, kind: str, **facts: Any) -> None: ...
