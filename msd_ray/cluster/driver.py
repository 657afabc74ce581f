"""The driver: keeps as many students training as there are slots, and replaces those that die."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from msd_ray.cluster.actors import Progress
from msd_ray.errors import MsdRayError

State = Literal["waiting", "starting", "training", "restarting", "done", "failed"]


@dataclass(frozen=True)
class Work:
    """A trainer that the driver is to see through. start: makes its actor, which has `advance(images) -> Progress`."""

    name: str
    images: int
    segment: int
    start: Callable[[], Any]


@dataclass(frozen=True)
class Status:
    """One line of the live view. failures: deaths in a row without progress. restarts: all deaths so far."""

    name: str
    images: int
    state: State = "waiting"
    progress: Progress | None = None
    failures: int = 0
    restarts: int = 0
    error: str = ""


Watch = Callable[[list[Status]], None]


class Driver:
    """Runs all work to its end. Each piece stands alone: one that dies, waits or fails holds up no other."""

    def __init__(self, work: list[Work], slots: int, max_failures: int, watch: Watch) -> None:
        self._work, self._slots, self._max_failures, self._watch = work, slots, max_failures, watch
        self._status = [Status(w.name, w.images) for w in work]
        self._actors: dict[int, Any] = {}
        self._running: dict[Any, int] = {}  # the reference of a segment under way -> index of its work

    def run(self) -> list[Status]:
        """The final statuses, each done or failed."""
        waiting = list(range(len(self._work)))
        try:
            while waiting or self._running:
                while waiting and len(self._running) < self._slots:
                    self._begin(waiting.pop(0), "starting")
                self._watch(list(self._status))
                finished, _ = ray.wait(list(self._running), num_returns=1)
                self._settle(self._running.pop(finished[0]), finished[0])
        finally:
            for actor in self._actors.values():
                ray.kill(actor)
        self._watch(list(self._status))
        return self._status

    def _begin(self, i: int, state: State) -> None:
        self._actors[i] = self._work[i].start()
        self._set(i, state=state)
        self._continue(i)

    def _continue(self, i: int) -> None:
        self._running[self._actors[i].advance.remote(self._work[i].segment)] = i

    def _settle(self, i: int, reference: Any) -> None:
        """Takes in what became of one segment, and sees to the next."""
        try:
            progress: Progress = ray.get(reference)
        except RayActorError:
            self._died(i)
        except RayTaskError as error:
            self._end(i, "failed", error=reason_of(error))
        except RayError:  # a result lost with its node
            self._died(i)
        else:
            self._set(i, state="training", progress=progress, failures=0)
            if progress.done:
                self._end(i, "done")
            else:
                self._continue(i)

    def _died(self, i: int) -> None:
        failures, restarts = self._status[i].failures + 1, self._status[i].restarts + 1
        self._set(i, failures=failures, restarts=restarts)
        if failures > self._max_failures:
            self._end(i, "failed", error=f"its process died {failures} times in a row without progress")
        else:
            ray.kill(self._actors[i])  # it may be unreachable rather than dead
            self._begin(i, "restarting")

    def _end(self, i: int, state: State, error: str = "") -> None:
        self._set(i, state=state, error=error)
        ray.kill(self._actors.pop(i))

    def _set(self, i: int, **changes: Any) -> None:
        self._status[i] = replace(self._status[i], **changes)


def reason_of(error: RayTaskError) -> str:
    """One line that says what went wrong in an actor."""
    cause = error.cause
    if isinstance(cause, MsdRayError):
        return str(cause)
    return f"{type(cause).__name__}: {' '.join(str(cause).split())}"
