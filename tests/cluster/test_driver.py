"""The driver on a simulated cluster: whatever happens to nodes, all students get through, and little is lost."""

import random
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from typing import Any

import pytest

from msd_ray.cluster.driver import GRACE, TICK, Driver, Terms
from msd_ray.cluster.places import FIRST, Places
from msd_ray.cluster.planning.pacing import Pace
from msd_ray.cluster.planning.simulation import Incident, Node, NoTask, SimulatedSlots
from msd_ray.cluster.progress import Progress, StudentState
from msd_ray.cluster.slots import Ended, Event, Failed, Gone, Moving, NoPool, Up
from msd_ray.cluster.work import ScheduledTask, Segment
from msd_ray.errors import TrainingError

PACE = Pace(image=0.01, segment=0.05, open=0.2, start=1.0)


@dataclass
class Ear:
    views: list[list[StudentState]] = field(default_factory=list)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def watch(self, statuses: list[StudentState]) -> None:
        self.views.append(statuses)

    def event(self, kind: str, **facts: Any) -> None:
        self.events.append((kind, facts))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]

    def busiest(self) -> int:
        return max(sum(s.slot is not None for s in view) for view in self.views)


def works(n: int, images: int = 1000, segment: int = 100) -> list[ScheduledTask]:
    return [ScheduledTask(f"student {i}", images, segment, NoTask()) for i in range(n)]


def drive(
    slots: Any, work: list[ScheduledTask], terms: Terms | None = None, teacher_replicas: Any = None
) -> tuple[list[StudentState], Ear]:
    ear = Ear()
    return Driver(work, slots, terms or Terms(), ear, teacher_replicas or NoPool()).run(), ear


def test_students_take_turns_where_slots_are_few() -> None:
    slots = SimulatedSlots([Node("a", 2)], PACE)
    statuses, ear = drive(slots, works(8))
    assert [s.state for s in statuses] == ["done"] * 8
    assert ear.busiest() == 2
    seen = [[s.progress.nimg if s.progress else 0 for s in view] for view in ear.views]
    assert max(max(v) - min(v) for v in seen[:-1] if max(v) < 1000) <= 200  # fair: two segments at most
    assert slots.trained == 8 * 1000


def test_sequential_lets_the_first_ones_finish_first() -> None:
    _, ear = drive(SimulatedSlots([Node("a", 2)], PACE), works(4), Terms(policy="sequential"))
    assert [facts["student"] for kind, facts in ear.events if kind == "done"] == [f"student {i}" for i in range(4)]


def test_a_node_that_joins_is_used_at_once() -> None:
    def seconds(incidents: list[Incident]) -> float:
        slots = SimulatedSlots([Node("a", 2)], PACE, incidents)
        drive(slots, works(8))
        return slots.now()

    alone = seconds([])
    assert seconds([Incident(5.0, "join", Node("b", 2))]) < 0.65 * alone


def test_max_slots_is_kept() -> None:
    _, ear = drive(SimulatedSlots([Node("a", 8)], PACE), works(8), Terms(max_slots=3))
    assert ear.busiest() == 3


def test_slots_that_nobody_needs_are_given_back() -> None:
    _, ear = drive(SimulatedSlots([Node("a", 4)], PACE), [*works(3, images=100), *works(1)])
    up = {facts["slot"] for kind, facts in ear.events if kind == "slot up"}
    early = [facts for kind, facts in ear.events if kind == "slot gone" and "needed" in facts["reason"]]
    assert len(up) == 4
    assert len(early) == 3


def test_a_lost_node_costs_a_segment_and_nobody_is_blamed() -> None:
    slots = SimulatedSlots([Node("a", 2), Node("b", 2)], PACE, [Incident(5.3, "kill", Node("b", 2))])
    statuses, ear = drive(slots, works(4), Terms(max_failures=0))
    assert [s.state for s in statuses] == ["done"] * 4
    assert sum(s.restarts for s in statuses) == 2
    assert 0 < slots.lost <= 2 * 100
    assert ear.kinds().count("preempted") == 2
    assert ear.kinds().count("resumed") == 2


def test_notice_of_a_preemption_saves_the_work() -> None:
    drained = [Incident(5.3, "drain", Node("b", 2)), Incident(8.0, "kill", Node("b", 2))]
    slots = SimulatedSlots([Node("a", 2), Node("b", 2)], PACE, drained)
    statuses, ear = drive(slots, works(4))
    assert [s.state for s in statuses] == ["done"] * 4
    assert slots.lost == 0
    assert ear.kinds().count("slot leaving") == 2
    assert sum(s.restarts for s in statuses) == 0


def test_nothing_is_lost_but_segments_whatever_happens() -> None:
    for seed in range(40):
        rng = random.Random(seed)
        incidents, nodes = [], [Node("n0", 2)]
        for i in range(1, 25):
            at = rng.uniform(0, 60)
            node = Node(f"n{i}", rng.randint(1, 3), rng.choice([0.5, 1.0, 2.0]))
            incidents += [Incident(at, "join", node)]
            incidents += [Incident(at + rng.uniform(0, 30), rng.choice(["kill", "drain"]), node)]
        slots = SimulatedSlots(nodes, PACE, incidents)
        statuses, ear = drive(slots, works(8, images=950), Terms(policy=rng.choice(["fair", "sequential"])))
        assert [s.state for s in statuses] == ["done"] * 8
        assert slots.trained == 8 * 950
        interrupted = ear.kinds().count("preempted")
        assert slots.lost <= 100 * interrupted
        assert all(view_is_sound(view) for view in ear.views)


def view_is_sound(view: list[StudentState]) -> bool:
    taken = [s.slot for s in view if s.slot is not None]
    return len(taken) == len(set(taken)) and all(s.slot is None for s in view if s.state in ("done", "failed"))


class Troubled(SimulatedSlots):
    """Slots that die or fail where `trouble` says so: student -> what its orders from an image on end with."""

    def __init__(self, nodes: list[Node], trouble: dict[int, tuple[int, str]], times: int = 10**9) -> None:
        super().__init__(nodes, PACE)
        self.trouble, self.times = trouble, times
        self.sudden: list[Event] = []

    def give(self, slot: int, order: Segment) -> None:
        at, how = self.trouble.get(order.student, (10**9, ""))
        if self._saved.get(order.student, 0) >= at and self.times > 0:
            self.times -= 1
            self.sudden.append(Gone(slot, "exit code 1") if how == "dies" else Failed(slot, how))
        else:
            super().give(slot, order)

    def wait(self, seconds: float) -> list[Event]:
        sudden, self.sudden = self.sudden, []
        return sudden or super().wait(seconds)


def test_an_error_ends_its_student_alone() -> None:
    slots = Troubled([Node("a", 2)], {1: (300, "the gradient is not finite")})
    statuses, ear = drive(slots, works(3))
    assert [s.state for s in statuses] == ["done", "failed", "done"]
    assert statuses[1].error == "the gradient is not finite"
    assert "slot gone" not in ear.kinds()[: ear.kinds().index("failed") + 1]  # its slot serves the others


class WritesOn(SimulatedSlots):
    """A cluster whose students' checkpoints are still being written when their segments end."""

    def __init__(self, nodes: list[Node], incidents: list[Incident] | None = None) -> None:
        super().__init__(nodes, Pace(image=0.01), incidents or [])
        self.orders: list[tuple[int, Segment]] = []
        self.writing: dict[int, int] = {}  # student -> the slot that writes
        self.students: dict[int, int] = {}  # slot -> student

    def give(self, slot: int, order: Segment) -> None:
        assert self.writing.pop(order.student, slot) == slot
        self.orders.append((slot, order))
        self.students[slot] = order.student
        super().give(slot, order)

    def wait(self, seconds: float) -> list[Event]:
        return [self._still_writing(event) for event in super().wait(seconds)]

    def _still_writing(self, event: Event) -> Event:
        if isinstance(event, Gone):
            self.writing.pop(self.students.get(event.slot, -1), None)
        if not isinstance(event, Ended) or event.progress.done or event.progress.nimg == event.progress.begin:
            return event
        self.writing[self.students[event.slot]] = event.slot
        return replace(event, progress=replace(event.progress, writing=True))


def test_a_student_moves_only_when_its_checkpoint_is_whole() -> None:
    slots = WritesOn([Node("a", slots=2)])
    statuses, _ = drive(slots, works(5))
    assert all(s.state == "done" for s in statuses)
    assert any(order.work.segment == 0 for _, order in slots.orders)
    assert len({(slot, order.student) for slot, order in slots.orders}) > 5  # some did move


def test_who_trains_on_is_not_held_up_by_its_checkpoint() -> None:
    slots = WritesOn([Node("a", slots=2)])
    drive(slots, works(2))
    mine = [order for _, order in slots.orders if order.student == 0]
    assert [order.work.segment for order in mine] == [100] * 10
    assert [order.nimg for order in mine] == [None, *range(100, 1000, 100)]
    assert [order.saved for order in mine] == [0, 0, *range(100, 900, 100)]


def test_a_checkpoint_that_was_not_whole_is_not_expected_after_a_death() -> None:
    slots = WritesOn([Node("a", slots=1), Node("b", slots=1)], [Incident(3.5, "kill", Node("a", slots=1))])
    drive(slots, works(1))
    lost = next(i for i, (slot, _) in enumerate(slots.orders) if slot != slots.orders[0][0])
    assert [order.saved for _, order in slots.orders[lost - 1 : lost + 1]] == [200, 200]


class Talking(SimulatedSlots):
    """Slots that tell a moment after each order how far they have come."""

    def __init__(self, nodes: list[Node]) -> None:
        super().__init__(nodes, PACE)
        self.orders: list[Segment] = []
        self.told: list[Event] = []

    def give(self, slot: int, order: Segment) -> None:
        super().give(slot, order)
        self.orders.append(order)
        self.told.append(Moving(slot, Progress((order.nimg or 0) + 50, "dm", 10.0, done=False)))

    def wait(self, seconds: float) -> list[Event]:
        told, self.told = self.told, []
        return told or super().wait(seconds)


def test_progress_within_a_segment_is_shown_and_counts_for_nothing_else() -> None:
    slots = Talking([Node("a", 1)])
    _, ear = drive(slots, works(1, images=300))
    seen = [(s.live.nimg if s.live else None, s.progress.nimg if s.progress else 0) for (s,) in ear.views]
    assert [pair for pair, _ in groupby(seen)][1:] == [
        (50, 0),
        (None, 100),
        (150, 100),
        (None, 200),
        (250, 200),
        (None, 300),
    ]
    assert [order.nimg for order in slots.orders] == [None, 100, 200]
    assert next(s.state for (s,) in ear.views if s.live) == "training"


class Poisoned(SimulatedSlots):
    """From its `at`-th order on, a place ends all orders as a GPU does that lost its context: at once, with an error
    that is not ours. gpus: that a single node has; 0 where each place is a node of its own."""

    def __init__(self, places: int, at: int, gpus: int = 0, pace: Pace = PACE) -> None:
        super().__init__([Node("a", gpus)] if gpus else [Node(f"n{i}", 1) for i in range(places)], pace)
        self.at, self.gpus, self.orders = at, gpus, 0
        self.given: dict[int, str] = {}  # GPUs by slot
        self.sudden: list[Event] = []

    def groups(self) -> dict[str, int]:
        return {"a": self.gpus} if self.gpus else super().groups()

    def is_poisoned(self, slot: int) -> bool:
        return self.given.get(slot) == "0" if self.gpus else self._places[slot].node.name == "n0"

    def give(self, slot: int, order: Segment) -> None:
        self.orders += self.is_poisoned(slot)
        if self.is_poisoned(slot) and self.orders >= self.at:
            self.sudden.append(Gone(slot, "RuntimeError: CUDA error: device-side assert triggered"))
        else:
            super().give(slot, order)

    def drop(self, slot: int) -> None:
        self.given.pop(slot, None)
        if slot in self._places:  # who fails at once is the first to be free again
            self._open.appendleft(self._places[slot].node.name)
        super().drop(slot)

    def wait(self, seconds: float) -> list[Event]:
        sudden, self.sudden = self.sudden, []
        return sudden or [self._with_gpu(event) for event in super().wait(seconds)]

    def _with_gpu(self, event: Event) -> Event:
        if not (self.gpus and isinstance(event, Up)):
            return event
        self.given[event.slot] = next(g for g in map(str, range(self.gpus)) if g not in self.given.values())
        return replace(event, gpus=self.given[event.slot])


@pytest.mark.parametrize("gpus", [0, 16], ids=["a node of 16", "a GPU of 16"])
@pytest.mark.parametrize("at", [1, 4])
def test_a_place_that_kills_its_students_is_shunned_and_none_is_given_up(gpus: int, at: int) -> None:
    slots = Poisoned(16, at, gpus)
    statuses, ear = drive(slots, works(100))
    assert [s.state for s in statuses] == ["done"] * 100
    shunned = [facts for kind, facts in ear.events if kind == "shunned"]
    assert {facts["place"] for facts in shunned} == {"a GPU 0" if gpus else "n0"}
    assert all("CUDA error" in facts["reason"] for facts in shunned)
    assert slots.orders <= at + 1 + slots.now() / FIRST, "it is tried again from time to time, no more"
    assert ear.busiest() <= 16


def test_the_next_driver_knows_what_the_last_one_learnt_of_places() -> None:
    slots, places, ear = Poisoned(4, 1), Places(), Ear()
    for _ in range(2):
        statuses = Driver(works(8), slots, Terms(), ear, NoPool(), places).run()
        assert [s.state for s in statuses] == ["done"] * 8
        slots._saved.clear()
    assert slots.orders == 2, "the second one gives none to the bad place"


@pytest.mark.parametrize("students", [1, 2, 3])
def test_few_students_get_past_a_place_that_kills_them(students: int) -> None:
    slots = Poisoned(4, 1)
    statuses, _ = drive(slots, works(students))
    assert slots.orders == 2
    assert [s.state for s in statuses] == ["done"] * students


def test_a_student_that_dies_everywhere_is_given_up_with_the_last_reason() -> None:
    slots = Troubled([Node("a", 2), Node("b", 2)], {1: (300, "dies")})
    statuses, _ = drive(slots, works(4))
    assert [s.state for s in statuses] == ["done", "failed", "done", "done"]
    assert statuses[1].error.endswith("times in a row without progress: exit code 1")


class NeverWritten(SimulatedSlots):
    """The process dies with each checkpoint that it writes while training goes on."""

    def __init__(self) -> None:
        super().__init__([Node("a", 1)], PACE)
        self.writing: set[int] = set()

    def give(self, slot: int, order: Segment) -> None:
        if slot in self.writing:
            self._news.append(Gone(slot, "killed by signal 11"))
        else:
            super().give(slot, order)

    def wait(self, seconds: float) -> list[Event]:
        return [self._written_later(event) for event in super().wait(seconds)]

    def _written_later(self, event: Event) -> Event:
        if not isinstance(event, Ended):
            return event
        self.writing.add(event.slot)
        self._saved.clear()
        return replace(event, progress=replace(event.progress, begin=0, writing=True))


def test_a_segment_whose_checkpoint_is_never_written_is_no_progress() -> None:
    statuses, _ = drive(NeverWritten(), works(1))
    assert statuses[0].state == "failed"
    assert "died 4 times in a row" in statuses[0].error


class Hanging(SimulatedSlots):
    """Student 1's order number `at` never ends. answers: whether its process goes on to say where the student stands,
    or that it is still being read."""

    def __init__(self, nodes: list[Node], at: int, answers: bool, times: int = 1) -> None:
        super().__init__(nodes, PACE)
        self.at, self.answers, self.times, self.orders = at, answers, times, 0
        self.hanging: set[int] = set()

    def give(self, slot: int, order: Segment) -> None:
        self.orders += order.student == 1
        if order.student == 1 and self.orders >= self.at and self.times > 0:
            self.times -= 1
            self.hanging.add(slot)
        else:
            super().give(slot, order)

    def drop(self, slot: int) -> None:
        self.hanging.discard(slot)
        super().drop(slot)

    def wait(self, seconds: float) -> list[Event]:
        moving = [Moving(s, Progress(130, "dm", 1.0, done=False)) for s in self.hanging if self.answers]
        return [*super().wait(seconds), *moving]


@pytest.mark.parametrize("answers", [True, False])
def test_a_student_that_hangs_is_suspected_then_ended_and_resumed(answers: bool) -> None:
    slots = Hanging([Node("a", 2)], at=3, answers=answers)
    statuses, ear = drive(slots, works(3), Terms(silence=30.0))
    assert [s.state for s in statuses] == ["done"] * 3
    assert [s.restarts for s in statuses] == [0, 1, 0]
    first, second = [facts["reason"] for kind, facts in ear.events if kind == "suspected"]
    assert first.startswith("no progress for 31 s") and second.startswith("no progress for 38 s")
    assert ("though its process answers" if answers else "has not answered for 38 s") in second
    assert "died" in ear.kinds()


def test_one_that_always_hangs_is_given_up_with_the_reason() -> None:
    statuses, _ = drive(Hanging([Node("a", 2)], 3, answers=False, times=99), works(3), Terms(silence=30.0))
    assert [s.state for s in statuses] == ["done", "failed", "done"]
    assert "died 4 times in a row without progress: no progress for 38 s" in statuses[1].error


class Unheard(SimulatedSlots):
    """Slots of which the first never comes up."""

    def ask(self, slot: int) -> None:
        if slot:
            super().ask(slot)


def test_a_slot_that_does_not_start_though_there_is_room_is_asked_for_again() -> None:
    slots = Unheard([Node("a", 1)], PACE)
    statuses, ear = drive(slots, works(1), Terms(silence=30.0, max_slots=1))
    assert statuses[0].state == "done"
    assert [facts for kind, facts in ear.events if kind == "slot late"] == [{"slot": 0}]


class Away:
    """A teacher pool that does not answer for a while."""

    def __init__(self, slots: SimulatedSlots, since: float, until: float) -> None:
        self.slots, self.since, self.until, self.replicas = slots, since, until, ["replica"]

    @property
    def ready(self) -> bool:
        return not self.since <= self.slots.now() < self.until

    def tick(self) -> None:
        pass


def test_a_student_that_fails_for_want_of_a_teacher_is_tried_again() -> None:
    slots = Troubled([Node("a", 2)], {1: (200, "no teacher replica answered")}, times=3)
    statuses, _ = drive(slots, works(2), teacher_replicas=Away(slots, since=3.0, until=12.0))
    assert [s.state for s in statuses] == ["done", "done"]
    assert statuses[1].restarts == 3


def test_one_that_dies_is_resumed() -> None:
    slots = Troubled([Node("a", 3)], {0: (300, "dies")}, times=2)
    statuses, ear = drive(slots, works(3), Terms(max_failures=2))
    assert [s.state for s in statuses] == ["done"] * 3
    assert (statuses[0].restarts, statuses[0].failures) == (2, 0)
    assert [f["nimg"] for k, f in ear.events if k == "resumed"] == [300, 300]


def test_one_that_keeps_dying_is_given_up() -> None:
    statuses, _ = drive(Troubled([Node("a", 3)], {0: (300, "dies")}), works(3), Terms(max_failures=2))
    assert [s.state for s in statuses] == ["failed", "done", "done"]
    assert "died 3 times in a row" in statuses[0].error


class NeverUp(SimulatedSlots):
    def wait(self, seconds: float) -> list[Event]:
        return [Gone(event.slot, "no such module") if hasattr(event, "node") else event for event in super().wait(1)]


def test_who_waits_for_a_slot_on_its_way_takes_nobody_elses() -> None:
    slots = Troubled([Node("a", 3)], {0: (300, "dies")}, times=1)
    _, ear = drive(slots, works(3, images=5000))
    given = [f["slot"] for k, f in ear.events if k in ("started", "resumed") and f["student"] == "student 0"]
    assert given == [0, 3]  # its own new one, though others have trained more
    assert {s.slot for view in ear.views for s in view if s.name == "student 1"} <= {None, 1}


def test_slots_that_cannot_start_end_the_run() -> None:
    with pytest.raises(TrainingError, match="no process can be started for a student: no such module"):
        drive(NeverUp([Node("a", 2)], PACE), works(2))


class Pool:
    """A teacher pool with a replica on a node of its own, which goes; it can restart only where a slot makes room."""

    def __init__(self, slots: SimulatedSlots, away: float) -> None:
        self.slots, self.away, self.replicas = slots, away, ["replica"]

    @property
    def ready(self) -> bool:
        return self.slots.now() < self.away or len(self.slots._places) < 2

    def tick(self) -> None:
        pass


def test_a_slot_makes_room_for_a_teacher_that_has_none() -> None:
    slots = SimulatedSlots([Node("a", 2)], PACE)
    statuses, ear = drive(slots, works(4, images=10_000), teacher_replicas=Pool(slots, away=30.0))
    assert [s.state for s in statuses] == ["done"] * 4
    assert "made room for the teacher" in [f.get("reason") for k, f in ear.events if k == "slot gone"]


class Ticked(NoPool):
    """ticks: when it was looked after."""

    def __init__(self, slots: SimulatedSlots) -> None:
        self.slots, self.ticks = slots, list[float]()

    def tick(self) -> None:
        self.ticks.append(self.slots.now())


def test_the_driver_looks_after_the_pool_from_the_beginning() -> None:
    slots = SimulatedSlots([Node("a", 2)], PACE)
    pool = Ticked(slots)
    drive(slots, works(4), teacher_replicas=pool)
    assert pool.ticks[0] == 0
    gaps = [after - before for before, after in pairwise(pool.ticks)]
    assert min(gaps) >= TICK
    assert max(gaps) < 2 * TICK


def test_a_run_that_is_stopped_lets_those_that_train_save_and_begins_nothing_more() -> None:
    slots, ear = SimulatedSlots([Node("a", 2)], PACE), Ear()
    stopped_at = 3.0

    def stopping() -> bool:
        return slots.now() >= stopped_at

    statuses = Driver(works(4), slots, Terms(), ear, NoPool()).run(stopping)
    begun = [s for s in statuses if s.progress]
    assert begun
    assert {s.doing for s in statuses} == {"waiting"}
    assert sum(s.progress.nimg for s in begun if s.progress) == slots.trained
    assert any(s.progress.nimg % 100 for s in begun if s.progress)  # in the middle of a segment
    assert slots.lost == 0
    assert slots.now() < stopped_at + 2
    gone = [facts["reason"] for kind, facts in ear.events if kind == "slot gone"]
    assert gone == ["the run is stopped"] * 2


class Deaf(SimulatedSlots):
    """Whose slots take no notice of hurry."""

    def hurry(self, slot: int) -> None:
        pass


def test_a_run_that_is_stopped_waits_for_nobody_longer_than_it_may() -> None:
    slots = Deaf([Node("a", 2)], Pace(image=10.0))
    Driver(works(2), slots, Terms(), Ear(), NoPool()).run(lambda: slots.now() > 3)
    assert slots.now() < 3 + GRACE + 2 * TICK


def branching(images: int = 1000) -> list[ScheduledTask]:
    """A trunk of so many images, three students that branch off from it, and one that does not."""
    trunk, alone = works(2, images)
    return [replace(trunk, name="trunk"), *(replace(w, after=0, begins=images) for w in works(3, 2 * images)), alone]


def test_students_wait_for_their_trunk_and_begin_where_it_ended() -> None:
    slots = SimulatedSlots([Node("a", 8)], PACE)
    statuses, ear = drive(slots, branching())
    assert [s.state for s in statuses] == ["done"] * 5
    assert slots.trained == 5 * 1000
    for view in ear.views:
        if view[0].state != "done":
            assert all(s.slot is None and s.state == "waiting" for s in view[1:4])
            assert sum(s.slot is not None for s in view) <= 2  # and no slot stands idle for them
    done = ear.kinds().index("done")
    assert ear.kinds()[done + 1 :].count("started") == 3


def test_branches_go_on_whatever_happens_to_nodes() -> None:
    nodes = {at: Node(f"n{at}", 2) for at in range(3, 30, 4)}
    incidents = [Incident(at, "drain" if at % 8 == 3 else "kill", node) for at, node in nodes.items()]
    slots = SimulatedSlots([*nodes.values(), Node("stays", 1)], PACE, incidents)
    statuses, _ = drive(slots, branching())
    assert [s.state for s in statuses] == ["done"] * 5


def test_a_trunk_that_fails_ends_its_branches_and_nobody_else() -> None:
    statuses, _ = drive(Troubled([Node("a", 8)], {0: (300, "no luck")}), branching())
    assert [s.state for s in statuses] == ["failed"] * 4 + ["done"]
    assert statuses[1].error == "trunk, which it branches off from, failed"


def test_a_branch_that_fails_ends_itself() -> None:
    statuses, _ = drive(Troubled([Node("a", 8)], {2: (1300, "no luck")}), branching())
    assert [s.state for s in statuses] == ["done", "done", "failed", "done", "done"]
