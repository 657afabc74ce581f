"""Decides from where processes died which nodes and GPUs get no students for a while. No Ray, no clock of its own."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

Place = tuple[str, ...]
"""A node, (node,), or some of its GPUs, (node, numbers)."""
LIMIT = 2
"""Deaths in a row after which a place is shunned."""
FIRST, LONGEST = 60.0, 1800.0
"""Seconds for which a place is shunned for the first time, and at most; each time it is twice as long as before."""
CHANCES = 3
"""How often a place is shunned for the deaths of a single student before that student is to blame."""


@dataclass
class _Record:
    """The deaths on a place since a process there last made progress: each a student and where it died. shunned: how
    often the place was."""

    deaths: list[tuple[int, Place]] = field(default_factory=list)
    last: float = -math.inf
    until: float = -math.inf
    shunned: int = 0


class Places:
    """Distinguishes places that kill their students from students that die anywhere.

    A place is shunned after some deaths in a row of students that died nowhere else since they last made progress,
    unless it is the last one. The whole node is shunned if processes died on more than one of its GPUs, or used none.
    Deaths that are blamed on a place do not count for their students.
    """

    def __init__(self) -> None:
        self._slots: dict[int, tuple[Place, float]] = {}  # where each is, and since when
        self._records: dict[Place, _Record] = {}
        self._deaths: dict[int, list[Place]] = {}  # of each student since its last progress, but for those forgiven

    def begin(self) -> None:
        """Another driver begins, with other students and slots; the record of the places stays."""
        self._slots.clear()
        self._deaths.clear()

    def up(self, slot: int, node: str, gpus: str, now: float) -> None:
        """A slot's process began. gpus: the numbers of those that it was given, "" for none."""
        self._slots[slot] = ((node, gpus) if gpus else (node,), now)

    def shuns(self, slot: int, now: float) -> bool:
        """Whether the slot's place is shunned now."""
        return any(now < record.until for _, record in self._over(self._slots[slot][0]))

    def progressed(self, slot: int, student: int | None) -> None:
        """A segment ended well in the slot. student: the one that has a newer checkpoint by it, None if there is
        none."""
        if student is not None:
            self._deaths.pop(student, None)
        place, since = self._slots[slot]
        for scope, record in list(self._over(place)):
            if record.last <= since:
                del self._records[scope]

    def died(self, slot: int, student: int, now: float, groups: Mapping[str, int]) -> dict[str, float]:
        """The slot's process died with its student. groups: for each node that slots may be on, how many groups of GPUs
        it has, 1 where slots take none. Returns what is shunned from now on, and for how many seconds."""
        place = self._slots[slot][0]
        self._deaths.setdefault(student, []).append(place)
        found = {}
        for scope in (place, place[:1]) if len(place) > 1 else (place,):
            record = self._records.setdefault(scope, _Record())
            record.deaths.append((student, place))
            record.last = now
            if self._is_to_blame(scope, record) and self._is_another(scope, groups, now):
                found[" GPU ".join(scope)] = self._shun(scope, record, now)
        return found

    def failures(self, student: int) -> int:
        """The student's deaths in a row that are not blamed on a place."""
        deaths = self._deaths.get(student, [])
        for scope, record in self._records.items():
            if 0 < record.shunned <= CHANCES and all(_within(place, scope) for place in deaths):
                return 0
        return len(deaths)

    def _over(self, place: Place) -> Iterator[tuple[Place, _Record]]:
        """The records of the place and of its node."""
        return ((scope, self._records[scope]) for scope in {place, place[:1]} if scope in self._records)

    def _is_to_blame(self, scope: Place, record: _Record) -> bool:
        evidence = [place for student, place in record.deaths if self._dies_nowhere_else(student, scope)]
        spread = len(scope) > 1 or (scope in evidence) or len(set(evidence)) > 1
        return len(evidence) >= LIMIT and spread

    def _dies_nowhere_else(self, student: int, scope: Place) -> bool:
        return all(_within(place, scope) for place in self._deaths.get(student, []))

    def _is_another(self, scope: Place, groups: Mapping[str, int], now: float) -> bool:
        """Whether a place is left for students if this one is shunned as well."""
        shunned = {s for s, record in self._records.items() if now < record.until} | {scope}
        return any(n > sum(s[0] == node for s in shunned) for node, n in groups.items() if (node,) not in shunned)

    def _shun(self, scope: Place, record: _Record, now: float) -> float:
        seconds = min(LONGEST, FIRST * 2.0**record.shunned)
        record.until, record.shunned = now + seconds, record.shunned + 1
        if len({student for student, _ in record.deaths}) > 1:
            for student, deaths in self._deaths.items():
                self._deaths[student] = [place for place in deaths if not _within(place, scope)]
        return seconds


def _within(place: Place, scope: Place) -> bool:
    return place[: len(scope)] == scope
