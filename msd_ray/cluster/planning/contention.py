"""How fast pieces of work go that share a node's CPUs or GPUs, and the teacher pool. Arithmetic only."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Effort:
    """A piece of work. seconds: at speed 1, if nothing slows it down. busy: CPUs (or GPUs) that it keeps busy
    meanwhile. asks: replicas of the teacher, at speed 1, that it keeps busy meanwhile."""

    seconds: float
    busy: float = 1.0
    asks: float = 0.0

    def __add__(self, other: "Effort") -> "Effort":
        """One after the other; busy and asks are means over the time."""
        seconds = self.seconds + other.seconds
        if not seconds:
            return self
        share = self.seconds / seconds
        return Effort(
            seconds,
            share * self.busy + (1 - share) * other.busy,
            share * self.asks + (1 - share) * other.asks,
        )


@dataclass(frozen=True)
class Replicas:
    """The teacher pool. on: how many replicas each node has, by its name. capacity: replicas at speed 1 that all of
    them are worth together. local: whether they compute on the devices that students share."""

    on: Mapping[str, int] = field(default_factory=dict)
    capacity: float = math.inf
    local: bool = False


NO_REPLICAS = Replicas()
"""The pool of students that need none."""


@dataclass
class _Group:
    """What runs on a node. devices, speed: the node's. work: by slot. pace: how fast each slot goes now, by slot."""

    devices: float = math.inf
    speed: float = 1.0
    work: dict[int, Effort] = field(default_factory=dict)
    pace: dict[int, float] = field(default_factory=dict)

    @property
    def busy(self) -> float:
        return sum(e.busy for e in self.work.values())

    @property
    def asks(self) -> float:
        return self.speed * sum(e.asks for e in self.work.values())


class Sharing:
    """All that runs at a moment. Where a node's work would keep more devices busy than it has, or all students
    together more replicas than there are, everything concerned slows down in proportion, the pool's own work too."""

    def __init__(self, replicas: Replicas) -> None:
        self._pool = replicas
        self._groups: dict[str, _Group] = defaultdict(_Group)
        self._changed: dict[str, None] = {}  # in order, so that a forecast can be repeated
        self._asked, self._served = 0.0, 1.0
        self.peak = 0.0
        """The most replicas, at speed 1, that were ever kept busy at a time, had there been enough of them."""

    def begin(self, slot: int, effort: Effort, node: str, devices: float, speed: float) -> None:
        """The slot, on that node, has this to do from now on."""
        group = self._groups[node]
        group.devices, group.speed, group.work[slot] = devices, speed, effort
        group.pace.pop(slot, None)
        self._changed[node] = None

    def end(self, slot: int, node: str) -> None:
        """The slot has nothing to do any more."""
        group = self._groups[node]
        group.work.pop(slot, None)
        group.pace.pop(slot, None)
        self._changed[node] = None

    def changes(self) -> Iterator[tuple[int, float]]:
        """The slots that go at another speed than when this was last asked, with the seconds at speed 1 that each
        gets done per second."""
        if self._changed and self._pool.capacity < math.inf:
            self._serve()
        for name in self._changed:
            group, room = self._groups[name], self._room(name)
            for slot, effort in group.work.items():
                pace = group.speed * min(self._served if effort.asks else 1.0, room)
                if group.pace.get(slot) != pace:
                    group.pace[slot] = pace
                    yield slot, pace
        self._changed.clear()

    def _serve(self) -> None:
        """Sees how much of what the students ask the pool can answer, and whom that concerns."""
        served = self._served
        self._asked = sum(group.asks for group in self._groups.values())
        self._served = min(1.0, self._pool.capacity / self._asked) if self._asked else 1.0
        self._changed.update(dict.fromkeys(self._groups if served != self._served else self._pool.on))
        self.peak = max(self.peak, sum(g.asks * self._room(name) for name, g in self._groups.items()))

    def _room(self, name: str) -> float:
        """The share of its full speed that the node's devices allow."""
        group = self._groups[name]
        busy = group.busy
        if self._pool.local:
            busy += self._asked * self._pool.on.get(name, 0) / self._pool.capacity
        return min(1.0, group.devices / busy) if busy else 1.0
