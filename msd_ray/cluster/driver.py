"""The driver: gives students to slots segment by segment, and replaces the slots that go."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from msd_ray.cluster.places import Places
from msd_ray.cluster.progress import Phase, Progress, StudentState, Watch
from msd_ray.cluster.scheduler import Policy, Scheduler
from msd_ray.cluster.silence import Silence
from msd_ray.cluster.slots import Ended, Event, Failed, Gone, Leaving, Moving, Slots, TeacherReplicas, Up
from msd_ray.cluster.work import ScheduledTask, Segment
from msd_ray.errors import TrainingError

TICK = 1.0
"""Seconds after which the driver checks its slots even if no event came."""
SOON = 0.2
"""The same while no teacher replica answers, since all students wait for one."""
SPARE = 2
"""Slots that the driver asks for beyond those that fit: if one starts, a node has joined."""
PATIENCE = 20.0
"""Seconds without a teacher replica after which the driver drops a slot to make room for one. A replica starts in
some 5 s."""
GRACE = 12.0
"""Seconds that students have for a checkpoint when the run is stopped."""


@dataclass(frozen=True)
class Terms:
    """max_slots: None for as many as there is room for. max_failures: deaths in a row without progress after which the
    driver gives a student up, and start failures after which it asks for no more slots. silence: seconds without
    progress that are never suspected."""

    policy: Policy = "fair"
    max_slots: int | None = None
    max_failures: int = 3
    silence: float = math.inf


class Driver:
    """Runs all tasks to their end. One that dies, waits or fails delays no other but those that come after it."""

    def __init__(
        self,
        work: Sequence[ScheduledTask],
        slots: Slots,
        terms: Terms,
        watch: Watch,
        teacher_replicas: TeacherReplicas,
        places: Places | None = None,
    ) -> None:
        """places: the record of deaths by node and GPU, from earlier drivers."""
        self._work, self._slots, self._terms = list(work), slots, terms
        self._watch, self._support = watch, teacher_replicas
        self._status = [StudentState(w.name, w.images, begins=w.begins, trunk=w.trunk) for w in work]
        self._later = {i for i, w in enumerate(work) if w.after is not None}
        self._scheduler = Scheduler(terms.policy, [w.begins for w in work], self._later)
        self._unfinished = len(work)
        self._asked: dict[int, float] = {}  # slot -> since when
        self._up: set[int] = set()
        self._leaving: dict[int, str] = {}  # slot -> why
        self._places = places or Places()
        self._places.begin()
        self._held: set[int] = set()  # up on shunned places: they occupy what no student should get
        self._running: dict[int, int] = {}  # slot -> student
        self._next_slot, self._refused = 0, 0
        self._silence = Silence(terms.silence, slots.now())
        self._supported, self._ticked = slots.now(), slots.now() - TICK

    def run(self, stopping: Callable[[], bool] = lambda: False) -> list[StudentState]:
        """The final states, each done or failed. If `stopping()` becomes true, the students that train write a
        checkpoint and the run ends. Raises TrainingError if no slot can be started."""
        while self._unfinished and not stopping():
            pace = TICK if self._support.ready else SOON
            if self._slots.now() - self._ticked >= pace:
                self._ticked = self._slots.now()
                self._support.tick()
            self._suspect()
            self._hold()
            self._resize()
            self._assign()
            self._watch.watch(list(self._status))
            for event in self._slots.wait(pace):
                self._take(event)
        self._let_them_save()
        for slot in [*self._asked, *self._up]:
            self._remove(slot, "the run is stopped" if self._unfinished else "nothing is left to train")
        self._watch.watch(list(self._status))
        return self._status

    def _let_them_save(self) -> None:
        """Ends all running segments at their next update; waits GRACE seconds at most."""
        for slot in list(self._running):
            self._leave(slot, "the run is stopped")
        end = self._slots.now() + GRACE
        while self._running and self._slots.now() < end:
            for event in self._slots.wait(TICK):
                self._take(event)
            self._watch.watch(list(self._status))

    def _resize(self) -> None:
        """Asks for missing slots, and drops superfluous ones, and one more if the pool has no room."""
        if self._support.ready:
            self._supported = self._slots.now()
        elif self._slots.now() - self._supported > PATIENCE and self._up:
            self._supported = self._slots.now()
            self._lose(max(self._held or self._up), "made room for the teacher", excused=True)
        ready = self._unfinished - len(self._later)
        wanted = min(ready, self._terms.max_slots or ready)
        asked = max(SPARE, self._slots.room() - len(self._up)) if self._support.ready else 0
        while self._usable() < wanted and len(self._asked) < asked:
            self._asked[self._next_slot] = self._slots.now()
            self._slots.ask(self._next_slot)
            self._next_slot += 1
        while self._usable() > wanted and (spare := [*self._asked, *self._scheduler.idle]):
            self._remove(spare[0], "not needed any more")

    def _suspect(self) -> None:
        """Ends slots that have been silent for too long, and drops requests for slots that should have started by
        now."""
        for suspect in self._silence.suspects(self._slots.now(), excused=not self._support.ready):
            name = self._status[self._running[suspect.slot]].name
            self._watch.event("suspected", slot=suspect.slot, student=name, reason=suspect.reason)
            if suspect.lost:
                self._lose(suspect.slot, suspect.reason, excused=False)
        late = [s for s, since in self._asked.items() if self._slots.now() - since > self._silence.bound]
        for slot in late[: max(0, self._slots.room() - len(self._up))]:
            self._watch.event("slot late", slot=slot)
            self._remove(slot, "it did not start")

    def _usable(self) -> int:
        """Slots that are up or on their way, without those held on shunned places."""
        return len(self._asked) + len(self._up) - len(self._held)

    def _hold(self) -> None:
        """Gives no students to slots on shunned places until their time is over. The slots stay, so that no other slot
        gets their GPUs, and Ray's autoscaler adds nodes if too little else is left."""
        now = self._slots.now()
        for slot in [slot for slot in self._scheduler.idle if self._places.shuns(slot, now)]:
            self._scheduler.leave(slot)
            self._held.add(slot)
        for slot in [slot for slot in self._held if not self._places.shuns(slot, now)]:
            self._held.remove(slot)
            self._scheduler.arrive(slot)

    def _assign(self) -> None:
        for slot, student in self._scheduler.assign():
            self._give(slot, student)

    def _give(self, slot: int, student: int, images: int | None = None) -> None:
        """Gives the student a segment in the slot. images: of the segment, if not a whole one."""
        status, work = self._status[student], self._work[student]
        work = work if images is None else replace(work, segment=images)
        self._running[slot] = student
        self._silence.begin(slot, self._slots.now())
        nimg = status.progress.nimg if status.progress else None
        parked = self._scheduler.at_home(slot) - {student}
        self._slots.give(slot, Segment(student, work, nimg, parked, list(self._support.replicas), status.saved))
        self._set(student, state="starting" if status.state == "waiting" else status.state, slot=slot)
        if status.state != "training":
            kind = "resumed" if status.state == "restarting" else "started"
            self._watch.event(kind, student=status.name, slot=slot, nimg=nimg)

    def _take(self, event: Event) -> None:
        match event:
            case Up(slot, node, gpus):
                self._asked.pop(slot, None)
                self._up.add(slot)
                self._refused = 0
                self._places.up(slot, node, gpus, self._slots.now())
                self._scheduler.arrive(slot)
                self._watch.event("slot up", slot=slot, node=node)
            case Moving(slot, progress) if slot in self._running:
                self._silence.hear(slot, progress, self._slots.now())
                if progress:
                    self._set(self._running[slot], state="training", live=progress)
            case Ended(slot, progress):
                self._ended(slot, progress)
            case Failed(slot) if not self._support.ready:  # for lack of a teacher, which may come back
                self._interrupted(self._taken_from(slot))
                self._free(slot)
            case Failed(slot, reason):
                self._end(self._taken_from(slot), "failed", reason)
                self._free(slot)
            case Leaving(slot):
                self._leave(slot, "its node is about to go")
            case Gone(slot, reason, excused):
                self._lose(slot, reason, excused)

    def _ended(self, slot: int, progress: Progress) -> None:
        self._silence.end(slot, self._slots.now())
        student = self._taken_from(slot)
        self._places.progressed(slot, student if progress.saved > self._status[student].saved else None)
        failures = self._places.failures(student)
        self._set(student, state="training", progress=progress, live=None, failures=failures, slot=None)
        if progress.done:
            self._end(student, "done")
        elif slot not in self._leaving and self._scheduler.waiting <= self._coming():
            self._give(slot, student)
            return
        elif progress.writing:  # no other slot may train the student before its checkpoint is whole
            self._give(slot, student, images=0)
            return
        else:
            self._scheduler.wait(student, progress.nimg)
        self._free(slot)

    def _coming(self) -> int:
        """Slots on their way that seem to have room: a student that waits for one of them takes no other slot."""
        return min(len(self._asked), self._slots.room() - len(self._up))

    def _leave(self, slot: int, reason: str) -> None:
        """The slot gets no more segments, and ends the one it has."""
        if slot in self._leaving or slot not in self._up:
            return
        self._leaving[slot] = reason
        self._watch.event("slot leaving", slot=slot)
        if slot in self._running:
            self._slots.hurry(slot)
        else:
            self._free(slot)

    def _free(self, slot: int) -> None:
        if slot in self._leaving:
            self._remove(slot, self._leaving[slot])
        else:
            self._scheduler.arrive(slot)

    def _lose(self, slot: int, reason: str, excused: bool) -> None:
        """A slot is gone; its student has lost its work since its checkpoint."""
        if slot in self._asked and not excused:
            self._refused += 1
            if self._refused > self._terms.max_failures:
                raise TrainingError(f"no process can be started for a student: {reason}")
        student = self._taken_from(slot) if slot in self._running else None
        if student is not None and not excused:
            self._blame(slot, student, reason)
        self._remove(slot, reason)
        if student is not None:
            self._interrupted(student, "" if excused else reason)

    def _taken_from(self, slot: int) -> int:
        """Takes the student away from the slot; returns it."""
        self._silence.forget(slot)
        return self._running.pop(slot)

    def _blame(self, slot: int, student: int, reason: str) -> None:
        """Records where a student's process died, and shuns that place if processes die there too often."""
        shunned = self._places.died(slot, student, self._slots.now(), self._slots.groups())
        for place, seconds in shunned.items():
            why = f"processes keep dying there without progress, the last of {self._status[student].name}: {reason}"
            self._watch.event("shunned", place=place, seconds=seconds, reason=why)

    def _interrupted(self, student: int, reason: str = "") -> None:
        """Counts a death that may be the student's fault. reason: of the death."""
        status, failures = self._status[student], self._places.failures(student)
        self._watch.event("died" if reason else "preempted", student=status.name, slot=status.slot)
        self._set(student, failures=failures, restarts=status.restarts + 1, slot=None, live=None)
        if failures > self._terms.max_failures:
            self._end(student, "failed", f"its process died {failures} times in a row without progress: {reason}")
        else:
            self._set(student, state="restarting")
            self._scheduler.wait(student, status.saved)

    def _remove(self, slot: int, reason: str) -> None:
        if slot in self._up:
            self._watch.event("slot gone", slot=slot, reason=reason)
        self._asked.pop(slot, None)
        self._leaving.pop(slot, None)
        self._up.discard(slot)
        self._held.discard(slot)
        self._scheduler.leave(slot)
        self._slots.drop(slot)  # also where it is gone: it may be unreachable rather than dead

    def _end(self, student: int, state: Phase, error: str = "") -> None:
        self._set(student, state=state, error=error, slot=None, live=None)
        self._unfinished -= 1
        facts = {"error": error} if error else {}
        self._watch.event(state, student=self._status[student].name, **facts)
        for later in [i for i in self._later if self._work[i].after == student]:
            self._later.discard(later)
            if state == "done":
                self._scheduler.wait(later, self._work[later].begins)
            else:
                self._end(later, "failed", f"{self._status[student].name}, which it branches off from, failed")

    def _set(self, student: int, **changes: Any) -> None:
        self._status[student] = replace(self._status[student], **changes)
