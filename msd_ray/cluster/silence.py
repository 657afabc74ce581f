"""Decides from how long slots have made no progress whether they hang. No Ray, no clock of its own."""

from collections.abc import Iterator
from dataclasses import dataclass

from msd_ray.cluster.progress import Progress

FACTOR = 5
"""A slot is suspected after so many times the longest silence that ended well."""
LAST_CHANCE = 1.25
"""A slot is lost after so many times the silence after which it is suspected."""
BLINK = 10.0
"""If the driver checks later than after so many seconds it was suspended itself: the time counts for no slot."""

Where = tuple[object, ...]


@dataclass
class _Sign:
    """A slot's last sign of life. where: its student's nimg and stage. heard: when the process answered last."""

    at: float
    heard: float
    where: Where | None = None
    suspected: bool = False


@dataclass(frozen=True)
class Suspect:
    """A slot that has been silent for too long. lost: so long that the driver must end it."""

    slot: int
    lost: bool
    reason: str


class Silence:
    """Watches slots that train a segment. A sign of life is progress of the student: a process that answers may still
    hang."""

    def __init__(self, floor: float, now: float) -> None:
        """floor: seconds of silence that are never suspected."""
        self._floor, self._longest, self._checked = floor, 0.0, now
        self._signs: dict[int, _Sign] = {}

    @property
    def bound(self) -> float:
        """Seconds of silence after which a slot is suspected."""
        return max(self._floor, FACTOR * self._longest)

    def begin(self, slot: int, now: float) -> None:
        """The slot was given a segment."""
        self._signs[slot] = _Sign(now, now)

    def hear(self, slot: int, progress: Progress | None, now: float) -> None:
        """The slot's process answered. progress: its student's, None while the student is being read."""
        sign = self._signs[slot]
        where = (progress.nimg, progress.stage, progress.beats) if progress else None
        if where == sign.where:
            sign.heard = now
        else:
            self._learn(sign, now)
            self._signs[slot] = _Sign(now, now, where)

    def end(self, slot: int, now: float) -> None:
        """The segment has ended."""
        self._learn(self._signs[slot], now)

    def forget(self, slot: int) -> None:
        """The slot is gone, or its segment failed."""
        self._signs.pop(slot, None)

    def pardon(self, seconds: float) -> None:
        """Subtracts a time in which no slot could make progress."""
        for sign in self._signs.values():
            sign.at, sign.heard = sign.at + seconds, sign.heard + seconds

    def suspects(self, now: float, excused: bool = False) -> Iterator[Suspect]:
        """Yields each slot when it is first suspected, and when it is lost. excused: something that all slots need is
        missing, so the time since the last check does not count."""
        passed, self._checked = now - self._checked, now
        if excused or passed > BLINK:
            self.pardon(passed)
        for slot, sign in list(self._signs.items()):
            silent, lost = now - sign.at, now - sign.at > LAST_CHANCE * self.bound
            if lost or (silent > self.bound and not sign.suspected):
                sign.suspected = True
                yield Suspect(slot, lost, _reason(silent, now - sign.heard))

    def _learn(self, sign: _Sign, now: float) -> None:
        self._longest = max(self._longest, now - sign.at)


def _reason(silent: float, unheard: float) -> str:
    if unheard > BLINK:
        return f"no progress for {silent:.0f} s; its process has not answered for {unheard:.0f} s"
    return f"no progress for {silent:.0f} s, though its process answers"
