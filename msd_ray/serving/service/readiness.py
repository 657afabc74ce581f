"""Knows from probes and answers which students are ready, and lets requests wait for those that are not."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from msd_ray.serving.protocol.refusal import Refusal, away
from msd_ray.serving.service.routing import PartRequest
from msd_ray.serving.service.versions import Traffic, Version

GRACE = 10.0  # seconds without an answer after which requests are refused: a new replica mostly starts sooner


@dataclass
class _Heard:
    """The state of one part's students. why: they are not ready; empty if they are. since: time of the last good answer
    before that. last: time of the last answer of any kind. Seconds of the monotonic clock."""

    why: str
    since: float
    last: float


@dataclass(eq=False)
class _WaitingRequest:
    task: asyncio.Task[object]
    part: str
    until: float
    given_up: bool = False


@dataclass(frozen=True)
class NotReady:
    """Students of one part that are not ready, and why."""

    version: Version
    part: int
    why: str


class Readiness:
    """The readiness of all parts, by their versions. For use in one event loop."""

    def __init__(self, grace: float = GRACE) -> None:
        self._grace, self._heard, self._waiting = grace, dict[str, _Heard](), set[_WaitingRequest]()

    def heard(self, part: str, why: str = "") -> None:
        """Records an answer of the part's students, or why there is none."""
        now, before = time.monotonic(), self._heard.get(part)
        since = now if before is None or not why else before.since if before.why else before.last
        self._heard[part] = _Heard(why, since, now)
        if why:
            asyncio.get_running_loop().call_later(max(0.0, since + self._grace - now), self._give_up)

    def why(self, part: str) -> str:
        """Why the part's students are not ready; empty if they are, or nothing is known yet."""
        return self._heard[part].why if part in self._heard else ""

    def silent(self, part: str, seconds: float) -> bool:
        """Whether the part gave no good answer for so long that it should be probed."""
        heard = self._heard.get(part)
        return heard is None or bool(heard.why) or time.monotonic() - heard.last >= seconds

    def not_ready(self, traffic: Traffic) -> list[NotReady]:
        """The students that are not ready, of versions that get traffic."""
        return [found for version in traffic.served for found in self.not_ready_of(version)]

    def not_ready_of(self, version: Version) -> list[NotReady]:
        whys = [(part, self.why(of)) for part, of in enumerate(version.parts)]
        return [NotReady(version, part, why) for part, why in whys if why]

    @contextmanager
    def waiting(self, part_request: PartRequest, seconds: float) -> Iterator[None]:
        """Guards a task that asks a part's students in this block within so much time. If they are not ready for
        `grace`, or for half of the time, it raises Refusal, which names them and says why."""
        task, part = asyncio.current_task(), part_request.version.parts[part_request.part]
        assert task is not None
        cancels, now = task.cancelling(), time.monotonic()
        waiting = _WaitingRequest(task, part, now + seconds / 2)
        self._waiting.add(waiting)
        timer = asyncio.get_running_loop().call_later(seconds / 2, self._give_up)
        try:
            if self._is_away(waiting, now):
                raise refusal_of(NotReady(part_request.version, part_request.part, self.why(part)))
            yield
        except asyncio.CancelledError:
            if waiting.given_up and task.uncancel() <= cancels:
                raise refusal_of(NotReady(part_request.version, part_request.part, self.why(part))) from None
            raise
        finally:
            self._waiting.discard(waiting)
            timer.cancel()

    def _give_up(self) -> None:
        """Wakes the requests that have waited for long enough."""
        now = time.monotonic()
        for waiting in list(self._waiting):
            if not waiting.given_up and self._is_away(waiting, now):
                waiting.given_up = True
                waiting.task.cancel()

    def _is_away(self, waiting: _WaitingRequest, now: float) -> bool:
        heard = self._heard.get(waiting.part)
        if heard is None or not heard.why:
            return False
        return now >= waiting.until or now - heard.since >= self._grace


def refusal_of(found: NotReady, retry_seconds: float | None = None) -> Refusal:
    """UNAVAILABLE: another try may find them ready."""
    students, ids = found.version.students_of(found.part), found.version.ids_of(found.part)
    of = f" of {_listed(ids, 'class')}" if ids else ""
    who = f"{_listed(students, 'student')}{of} {'is' if len(students) == 1 else 'are'}"
    return away(f"{who} not ready: {short(found.why, found.version)}", retry_seconds or 1.0)


def short(why: str, version: Version) -> str:
    """Removes the ensemble's URI and the advice, which are for operators and not for callers."""
    return why.replace(f"{version.uri}/", "").replace(version.uri, "the ensemble").partition(";")[0]


def _listed(numbers: Sequence[int], what: str) -> str:
    plural = "" if len(numbers) == 1 else "es" if what.endswith("s") else "s"
    return f"{what}{plural} {', '.join(map(str, numbers[:8]))}{', ...' if len(numbers) > 8 else ''}"
