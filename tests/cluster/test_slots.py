"""Slots that one driver uses after another."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from msd_ray.cluster.progress import Progress
from msd_ray.cluster.slots import Ended, Event, Moving, Up
from msd_ray.cluster.work import ScheduledTask, Segment, SingleProcess


class Counting(SingleProcess):
    """A task and its training: counts how often it is read from its checkpoint, and how far it has come."""

    bytes, device = 0, torch.device("cpu")

    def __init__(self) -> None:
        self.opened = self.nimg = 0

    def open(self, known: int = 0) -> "Counting":
        self.opened += 1
        return self

    def advance(self, images: int, replicas: list[Any], hurried: Callable[[], bool]) -> Progress:
        self.nimg += images
        return Progress(self.nimg, "dm", 1.0, done=False)

    def current_progress(self) -> Progress:
        return Progress(self.nimg, "dm", 1.0, done=False)


class Unhurried(Counting):
    """Trains nothing where it is hurried."""

    def advance(self, images: int, replicas: list[Any], hurried: Callable[[], bool]) -> Progress:
        return super().advance(0 if hurried() else images, replicas, hurried)


class Slow(Counting):
    """Trains one image after another, until it is hurried; a checkpoint ends that."""

    def advance(self, images: int, replicas: list[Any], hurried: Callable[[], bool]) -> Progress:
        while not hurried():
            self.nimg += 1
            time.sleep(0.01)
        return self.current_progress()


def test_a_slot_forgets_the_students_of_the_driver_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second driver's student has the number and the images of the first one's, but another slot trained it."""
    from msd_ray.cluster.slot import Slot

    context = SimpleNamespace(get_node_id=lambda: "a", get_accelerator_ids=lambda: {"GPU": ["0", "1"]})
    monkeypatch.setattr("ray.get_runtime_context", lambda: context)
    assert Slot().ready() == ("a", "0,1")
    slot, first, second = Slot(), Counting(), Unhurried()
    slot.ready()
    slot.advance(Segment(0, ScheduledTask("first", 300, 100, first), None))
    slot.advance(Segment(0, ScheduledTask("first", 300, 100, first), 100))
    assert first.opened == 1  # it was still in memory
    slot.hurry()
    slot.ready()
    slot.advance(Segment(0, ScheduledTask("second", 300, 100, second), 200))
    assert (first.nimg, second.opened, second.nimg) == (200, 1, 100)


@pytest.mark.ray
def test_a_slot_tells_how_far_it_is_while_it_trains(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from msd_ray.cluster import ray_slots

    monkeypatch.setattr(ray_slots, "LOOK", 0.1)
    slots = ray_slots.RaySlots(0.2, 0.0, lambda: 1)
    events = events_of(slots)
    slots.ask(0)
    assert isinstance(next(events), Up)
    slots.give(0, Segment(0, ScheduledTask("student 0", 10**9, 10**9, Slow()), None))
    told = (e.progress for e in events if isinstance(e, Moving) and e.progress)  # none while the student is read
    first, second = next(told), next(told)
    assert 0 <= first.nimg < second.nimg
    slots.hurry(0)
    last = next(e for e in events if not isinstance(e, Moving))
    assert isinstance(last, Ended) and last.progress.nimg >= second.nimg
    slots.close()


def events_of(slots: Any) -> Iterator[Event]:
    while True:
        yield from slots.wait(0.1)


@pytest.mark.ray
def test_idle_slots_are_kept_for_the_next_driver_but_not_in_the_way_of_others(
    cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from msd_ray.cluster import idle_slots, ray_slots

    with idle_slots.IdleSlots() as idle:
        slots = ray_slots.RaySlots(0.2, 0.0, lambda: 1, idle=idle)
        first = pids_after_asking(slots, 0)
        slots.close()
        slots = ray_slots.RaySlots(0.2, 0.0, lambda: 1, idle=idle)
        assert pids_after_asking(slots, 0) == first
        slots.close()
        other = ray_slots.RaySlots(0.1, 0.0, lambda: 1, idle=idle)
        assert not pids_after_asking(other, 0) & first
        assert gone(first)
        monkeypatch.setattr(idle_slots, "KEPT", 0.0)
        other.close()
        assert gone(pids())


def gone(processes: set[int]) -> bool:
    """Whether they come to end."""
    deadline = time.monotonic() + 60
    while processes & pids() and time.monotonic() < deadline:
        time.sleep(0.1)
    return not processes & pids()


def pids_after_asking(slots: Any, slot: int) -> set[int]:
    slots.ask(slot)
    while not slots.wait(1.0):
        pass
    return pids()


def pids() -> set[int]:
    """Of the processes of slots."""
    found = set[int]()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            if "ray::Slot" in " ".join(process.cmdline()):
                found.add(process.pid)
    return found
