"""A cluster that exists in numbers only, for the driver to drive: the planner's forecasts and `benchmarks/scale.py`."""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from msd_ray.cluster.planning.contention import NO_REPLICAS, Effort, Replicas, Sharing
from msd_ray.cluster.planning.pacing import Pacing
from msd_ray.cluster.progress import Progress
from msd_ray.cluster.slots import Ended, Event, Gone, Leaving, Up
from msd_ray.cluster.work import Segment, Training


@dataclass(frozen=True)
class Node:
    """slots: how many students it trains at a time. speed: of one of its slots, 1 for what `Pace` was measured on.
    devices: the CPUs (or GPUs) that they share."""

    name: str
    slots: int
    speed: float = 1.0
    devices: float = math.inf


@dataclass(frozen=True)
class Incident:
    """What happens to a node, so many seconds after the beginning: it joins, is lost, or is said to go soon."""

    at: float
    kind: Literal["join", "kill", "drain"]
    node: Node


class NoTask:
    """The task of a student that exists in numbers only."""

    def open(self, known: int = 0) -> Training:
        raise NotImplementedError


@dataclass
class _Place:
    """A slot on a node. left: of what it does now, in seconds at speed 1, at the time `since`. speed: at which it goes.
    epoch: counts its changes of speed. began: when its segment did. training: of the segment. done: images of the
    segment, where it was hurried."""

    slot: int
    node: Node
    up: bool = False
    order: Segment | None = None
    left: float = 0.0
    since: float = 0.0
    speed: float = 0.0
    epoch: int = 0
    began: float = 0.0
    training: Effort = Effort(0.0)
    done: int | None = None
    held: dict[int, int] = field(default_factory=dict)

    def left_at(self, now: float) -> float:
        return self.left - (now - self.since) * self.speed


class SimulatedSlots:
    """Slots on a virtual clock, which jumps from one event to the next."""

    def __init__(
        self,
        nodes: Sequence[Node],
        pace: Pacing,
        incidents: Sequence[Incident] = (),
        replicas: Replicas = NO_REPLICAS,
        tick: float = 0.0,
    ) -> None:
        """replicas: of the teacher, if they can be too few. tick: seconds that a wait in which nothing happens lasts at
        least; with a long one, long forecasts take less time."""
        self._pace, self._tick = pace, tick
        self._sharing = Sharing(replicas)
        self._clock = 0.0
        self._ids = itertools.count()
        self._agenda: list[tuple[float, int, tuple[int, int] | Incident]] = []
        self._nodes: dict[str, Node] = {}
        self._draining: set[str] = set()
        self._free: dict[str, int] = {}
        self._open: deque[str] = deque()  # the nodes that may have a free slot
        self._asked: deque[int] = deque()
        self._places: dict[int, _Place] = {}
        self._saved: dict[int, int] = {}
        self._news: list[Event] = []
        self.trained = 0
        """Images of all segments that came to their end."""
        self.lost = 0.0
        """Images trained in vain, since their slot went before the checkpoint."""
        for node in nodes:
            self._join(node)
        for incident in incidents:
            self._later(incident.at, incident)

    @property
    def over(self) -> bool:
        """Whether nothing is under way, and nothing will happen any more."""
        return not self._places and not self._agenda

    @property
    def asked(self) -> float:
        """The most teacher replicas, at speed 1, that students would ever have kept busy at a time."""
        return self._sharing.peak

    def room(self) -> int:
        return sum(node.slots for name, node in self._nodes.items() if name not in self._draining)

    def groups(self) -> dict[str, int]:
        return {name: 1 for name in self._nodes if name not in self._draining}

    def ask(self, slot: int) -> None:
        self._asked.append(slot)
        self._place()

    def give(self, slot: int, order: Segment) -> None:
        place, pace = self._places[slot], self._pace
        fresh = place.held.get(order.student) != self._at(order)
        place.order, place.began, place.done = order, self._clock, None
        place.held = {s: n for s, n in place.held.items() if s in order.parked}
        place.training = pace.training(order.student, self._at(order), self._left(order))
        self._begin(place, Effort(pace.open * fresh) + place.training + Effort(pace.segment))

    def hurry(self, slot: int) -> None:
        """The segment ends at once, with what it has."""
        place = self._places[slot]
        place.done = self._done(place)
        self._begin(place, Effort(self._pace.segment))

    def drop(self, slot: int) -> None:
        if place := self._places.pop(slot, None):
            self._interrupt(place)
            self._sharing.end(slot, place.node.name)
            if place.node.name in self._nodes:
                self._free[place.node.name] += 1
                self._open.append(place.node.name)
                self._place()
        elif slot in self._asked:
            self._asked.remove(slot)

    def wait(self, seconds: float) -> list[Event]:
        """Everything that happens at the next moment at which something does."""
        end = self._clock + max(seconds, self._tick)
        self._set_speeds()
        while not self._news and self._agenda and self._agenda[0][0] <= end:
            self._clock = self._agenda[0][0]
            while self._agenda and self._agenda[0][0] == self._clock:
                self._happen(heapq.heappop(self._agenda)[2])
            self._set_speeds()
        if not self._news:
            self._clock = end
        news, self._news = self._news, []
        return news

    def now(self) -> float:
        return self._clock

    def _later(self, at: float, what: tuple[int, int] | Incident) -> None:
        heapq.heappush(self._agenda, (at, next(self._ids), what))

    def _happen(self, what: tuple[int, int] | Incident) -> None:
        if isinstance(what, Incident):
            {"join": self._join, "kill": self._kill, "drain": self._drain}[what.kind](what.node)
            return
        slot, epoch = what
        place = self._places.get(slot)
        if place is None or place.epoch != epoch:
            return
        self._sharing.end(slot, place.node.name)
        if place.up:
            self._finish(place)
        else:
            place.up = True
            self._news.append(Up(slot, place.node.name))

    def _begin(self, place: _Place, effort: Effort) -> None:
        """Gives the place something to do; when it will be done is seen when time goes on."""
        place.left, place.since, place.speed = effort.seconds, self._clock, 0.0
        self._sharing.begin(place.slot, effort, place.node.name, place.node.devices, place.node.speed)

    def _set_speeds(self) -> None:
        """Makes everybody go at the speed that goes with what the others do now."""
        for slot, speed in self._sharing.changes():
            place = self._places[slot]
            place.left, place.since, place.speed = max(0.0, place.left_at(self._clock)), self._clock, speed
            place.epoch += 1
            self._later(self._clock + place.left / speed, (slot, place.epoch))

    def _finish(self, place: _Place) -> None:
        assert place.order
        order, place.order = place.order, None
        begin = self._at(order)
        done = self._left(order) if place.done is None else place.done
        nimg = begin + done
        self._saved[order.student] = place.held[order.student] = nimg
        self.trained += done
        seconds = self._clock - place.began
        rate = done / seconds if seconds else 0.0
        self._news.append(Ended(place.slot, Progress(nimg, "simulated", rate, nimg >= order.work.images, begin=begin)))

    def _left(self, order: Segment) -> int:
        """The length of the order's segment."""
        return min(order.work.segment, order.work.images - self._at(order))

    def _at(self, order: Segment) -> int:
        """Images of its student's checkpoint, or of the trunk's."""
        return self._saved.get(order.student, order.work.begins)

    def _done(self, place: _Place) -> int:
        """How much of its segment a slot has trained by now."""
        assert place.order
        if place.done is not None:
            return place.done
        whole, left = self._left(place.order), place.left_at(self._clock) - self._pace.segment
        share = 1 - left / place.training.seconds if place.training.seconds else 1.0
        return max(0, min(whole, int(whole * share)))

    def _interrupt(self, place: _Place) -> None:
        if place.order:
            self.lost += self._done(place)

    def _join(self, node: Node) -> None:
        self._nodes[node.name], self._free[node.name] = node, node.slots
        self._open.append(node.name)
        self._place()

    def _kill(self, node: Node) -> None:
        if self._nodes.pop(node.name, None) is None:
            return
        self._draining.discard(node.name)
        for place in [p for p in self._places.values() if p.node.name == node.name]:
            self._interrupt(place)
            self._sharing.end(place.slot, node.name)
            del self._places[place.slot]
            self._news.append(Gone(place.slot, f"{node.name} is gone", excused=True))

    def _drain(self, node: Node) -> None:
        if node.name in self._nodes:
            self._draining.add(node.name)
            self._news += [Leaving(p.slot) for p in self._places.values() if p.node.name == node.name and p.up]

    def _place(self) -> None:
        """Puts slots that were asked for on nodes with room, in the order of asking."""
        while self._asked and self._open:
            name = self._open[0]
            if name not in self._nodes or name in self._draining or not self._free[name]:
                self._open.popleft()
                continue
            slot, node = self._asked.popleft(), self._nodes[name]
            self._free[name] -= 1
            place = self._places[slot] = _Place(slot, node)
            self._begin(place, Effort(self._pace.start))
