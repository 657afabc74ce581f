"""Slots as actors on a Ray cluster."""

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from msd_ray import own_code
from msd_ray.cluster.idle_slots import IdleSlots
from msd_ray.cluster.ray_private import draining_nodes
from msd_ray.cluster.slot import Slot
from msd_ray.cluster.slots import Ended, Event, Failed, Gone, Leaving, Moving, Up
from msd_ray.cluster.work import Segment
from msd_ray.errors import MsdRayError, named, one_line

LOOK = 2.0
"""Seconds between two checks of how many slots fit, which nodes are being drained, and how far students are."""


class RaySlots:
    """Each slot is an actor. Ray places it as soon as some node has room for it, whether now or when a node joins."""

    def __init__(
        self,
        cpus: float,
        gpus: float,
        room: Callable[[], int],
        environment: dict[str, str] | None = None,
        idle: IdleSlots | None = None,
    ) -> None:
        """cpus, gpus: of one slot. room: counts the slots that fit on the cluster as it is. environment: of the slots'
        processes and of all that they start. idle: where processes that are dropped idle are kept for slots asked for
        later, by this driver or the next."""
        self._draining: set[str] = set()
        self._resources = cpus, gpus
        self._count, self._counted, self._room = room, -LOOK, 0
        self._looked = time.monotonic()
        grouped: Any = ray.remote(concurrency_groups={"control": 1})  # type: ignore[call-overload]
        env_vars = own_code.environment() | (environment or {})
        self._idle, self._kind = idle, (cpus, gpus, env_vars)
        self._actor = grouped(Slot).options(
            num_cpus=cpus,
            num_gpus=gpus,
            runtime_env={"env_vars": env_vars} if env_vars else None,
            scheduling_strategy="DEFAULT",  # wherever there is room, also where the driver is in a placement group
        )
        self._actors: dict[int, Any] = {}
        self._nodes: dict[int, str] = {}
        self._answers: dict[Any, int] = {}  # the reference of what a slot is doing -> the slot
        self._questions: dict[int, Any] = {}  # slot -> the reference of where its student stands
        self._questioned = 0.0

    def room(self) -> int:
        if time.monotonic() - self._counted > LOOK:
            self._room, self._counted = self._count(), time.monotonic()
        return self._room

    def groups(self) -> dict[str, int]:
        nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in self._draining]  # type: ignore[no-untyped-call]
        return {n["NodeID"]: size for n in nodes if (size := _groups(n["Resources"], *self._resources))}

    def ask(self, slot: int) -> None:
        self._actors[slot] = self._kept() or self._actor.remote()
        self._answers[self._actors[slot].ready.remote()] = slot

    def give(self, slot: int, order: Segment) -> None:
        self._answers[self._actors[slot].advance.remote(order)] = slot
        self._questions.pop(slot, None)  # it was about the student before

    def hurry(self, slot: int) -> None:
        self._actors[slot].hurry.remote()

    def drop(self, slot: int) -> None:
        actor, node = self._actors.pop(slot, None), self._nodes.pop(slot, None)
        if actor and node and self._idle and slot not in self._answers.values():
            self._idle.keep(self._kind, actor, node)
        elif actor:
            ray.kill(actor)
        self._answers = {ref: s for ref, s in self._answers.items() if s != slot}
        self._questions.pop(slot, None)

    def wait(self, seconds: float) -> list[Event]:
        if not self._answers:
            time.sleep(seconds)
            return self._leaving()
        ready, _ = ray.wait(list(self._answers), num_returns=1, timeout=seconds)
        if ready:  # and whatever else came meanwhile
            ready = _ready(list(self._answers))
        return [self._event(self._answers.pop(ref), ref) for ref in ready] + self._moving() + self._leaving()

    def now(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        for slot in list(self._actors):
            self.drop(slot)

    def _kept(self) -> Any:
        """An idle process on a node that is not being drained; None if there is none."""
        return self._idle.take(self._kind, _alive() - self._draining) if self._idle else None

    def _event(self, slot: int, ref: Any) -> Event:
        try:
            answer = ray.get(ref)
        except RayTaskError as error:
            if isinstance(error.cause, MsdRayError):
                return Failed(slot, reason_of(error))
            self._nodes.pop(slot, None)  # so that it is ended, not kept
            return Gone(slot, reason_of(error))
        except RayError as error:  # the process died, or its result was lost with its node
            excused = self._node_is_lost(slot) or not isinstance(error, RayActorError) or error.preempted
            self._nodes.pop(slot, None)
            return Gone(slot, one_line(error), excused)
        if slot in self._nodes:
            return Ended(slot, answer)
        self._nodes[slot], gpus = answer
        return Up(slot, self._nodes[slot], gpus)

    def _moving(self) -> list[Event]:
        """The progress of running segments. Slots that have not answered yet are not asked again."""
        if time.monotonic() - self._questioned < LOOK:
            return []
        self._questioned = time.monotonic()
        running = [slot for slot in self._answers.values() if slot in self._nodes]
        answered, events = set(_ready(list(self._questions.values()))), list[Event]()
        for slot in running:
            if self._questions.get(slot) in answered:
                events += _progress(slot, self._questions.pop(slot))
            if slot not in self._questions:
                self._questions[slot] = self._actors[slot].progress.remote()
        return events

    def _node_is_lost(self, slot: int) -> bool:
        return slot in self._nodes and self._nodes[slot] not in _alive()

    def _leaving(self) -> list[Event]:
        """The slots on nodes that are being drained, as a spot instance is before it is taken."""
        if time.monotonic() - self._looked < LOOK:
            return []
        self._looked = time.monotonic()
        self._draining = draining_nodes()
        return [Leaving(slot) for slot, node in self._nodes.items() if node in self._draining]


def _ready(references: list[Any]) -> list[Any]:
    """The answers that have come."""
    return ray.wait(references, num_returns=len(references), timeout=0)[0] if references else []


def _progress(slot: int, reference: Any) -> list[Event]:
    """A slot's answer, unless it died meanwhile, which the end of its segment will show."""
    try:
        return [Moving(slot, ray.get(reference))]
    except RayError:
        return []


def _groups(has: dict[str, float], cpus: float, gpus: float) -> int:
    """How many groups of GPUs a node has for slots; one if slots take none and it has room for one."""
    if has.get("CPU", 0.0) < cpus or has.get("GPU", 0.0) < gpus:
        return 0
    return int(has["GPU"] // max(1.0, gpus)) if gpus else 1


def _alive() -> set[str]:
    """The ids of the living nodes."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]


def reason_of(error: RayTaskError) -> str:
    """One line that says what went wrong in an actor."""
    cause = error.cause
    if isinstance(cause, MsdRayError):
        return str(cause)
    return named(cause)
