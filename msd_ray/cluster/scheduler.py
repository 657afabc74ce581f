"""Which student trains in which slot next. No Ray, no clock: the planner and the benchmarks run the same code."""

import heapq
from collections.abc import Collection, Sequence
from typing import Literal

Policy = Literal["fair", "sequential"]


class Scheduler:
    """Gives idle slots to waiting students, segment by segment.

    fair: the student with the fewest images goes first. sequential: the one with the lowest number, to its end. Of
    students that are equal, a slot prefers one that it trained last, which it may still hold in memory.
    """

    def __init__(self, policy: Policy, images: Sequence[int], later: Collection[int] = ()) -> None:
        """images: what each student has seen already. later: students that do not wait for a slot yet."""
        self._fair = policy == "fair"
        self._images = list(images)
        self._home: dict[int, int] = {}
        self._waiting: set[int] = set()
        self._queue: list[tuple[int, int]] = []  # heaps of (images, student), with entries that are out of date
        self._queues: dict[int, list[tuple[int, int]]] = {}  # the same for the students at home in each slot
        self._residents: dict[int, set[int]] = {}
        self._idle: dict[int, None] = {}  # in order of arrival
        for student in set(range(len(images))) - set(later):
            self.wait(student, images[student])

    @property
    def idle(self) -> list[int]:
        """The slots without a student, those longest idle first."""
        return list(self._idle)

    @property
    def waiting(self) -> int:
        """How many students wait for a slot."""
        return len(self._waiting)

    def wait(self, student: int, images: int) -> None:
        """The student, at `images`, waits for a slot from now on."""
        self._images[student] = images
        self._waiting.add(student)
        entry = (images if self._fair else 0, student)
        heapq.heappush(self._queue, entry)
        if student in self._home:
            heapq.heappush(self._queues[self._home[student]], entry)

    def arrive(self, slot: int) -> None:
        """The slot has nothing to do."""
        self._queues.setdefault(slot, [])
        self._residents.setdefault(slot, set())
        self._idle[slot] = None

    def leave(self, slot: int) -> None:
        """The slot takes no more students, and is no student's last slot any more."""
        self._idle.pop(slot, None)
        self._queues.pop(slot, None)
        for student in self._residents.pop(slot, set()):
            del self._home[student]

    def at_home(self, slot: int) -> frozenset[int]:
        """The students that trained last in this slot."""
        return frozenset(self._residents.get(slot, ()))

    def assign(self) -> list[tuple[int, int]]:
        """Pairs (slot, student) for every slot that gets a student now. Both are no longer idle or waiting
        afterwards."""
        pairs = []
        for slot in list(self._idle):
            student = self._next_for(slot)
            if student is None:
                break
            del self._idle[slot]
            self._waiting.discard(student)
            self._move(student, slot)
            pairs.append((slot, student))
        return pairs

    def _move(self, student: int, slot: int) -> None:
        if student in self._home:
            self._residents[self._home[student]].discard(student)
        self._home[student] = slot
        self._residents[slot].add(student)

    def _next_for(self, slot: int) -> int | None:
        anyone, own = self._first(self._queue), self._first(self._queues[slot], slot)
        first = own if anyone and own and own[0] <= anyone[0] and self._fair else anyone
        return first[1] if first else None

    def _first(self, queue: list[tuple[int, int]], home: int | None = None) -> tuple[int, int] | None:
        """The first entry of the heap that is up to date; drops those before it."""
        while queue and not self._holds(queue[0], home):
            heapq.heappop(queue)
        return queue[0] if queue else None

    def _holds(self, entry: tuple[int, int], home: int | None) -> bool:
        images, student = entry
        at_home = home is None or self._home.get(student) == home
        return student in self._waiting and at_home and (not self._fair or images == self._images[student])
