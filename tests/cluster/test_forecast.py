"""Forecasts against what can be worked out by hand, on nodes that exist in numbers only."""

import math
from pathlib import Path
from typing import Any

import pytest

from msd_ray.cluster.planning.contention import Effort, Replicas, Sharing
from msd_ray.cluster.planning.forecast import Forecast, Upcoming, forecast
from msd_ray.cluster.planning.layout import check_fits, lay_out
from msd_ray.cluster.planning.rehearsal import RAY_START
from msd_ray.errors import UserError
from msd_ray.profiling.timing import StageTiming, Timing
from msd_ray.recipes import ClusterConfig, PoolConfig
from msd_ray.runs.nodes import NodeKind
from msd_ray.runs.plan import Plan
from msd_ray.runs.run_context import RunContext

TINY = str(Path(__file__).parents[1] / "faults" / "tiny.yaml")
IMAGES, SEGMENTS, IMAGE = 2880, 9, 0.01  # of each student; seconds per image
ALONE = IMAGES * IMAGE
START = 3.0
LOCAL = ["cluster.teacher=local", "cluster.cpus_per_student=1.0"]


def plan(*overrides: str, k: int = 4) -> Plan:
    return RunContext.of(TINY, [f"partition.k={k}", "partition.kind=sequential", *overrides], None).plan


def timing(teacher: float = 0.0, waits: float = 0.0, **changes: Any) -> Timing:
    stage = StageTiming(IMAGE, teacher, waits)
    known = {"open": 0.0, "segment": 0.0, "teacher": 0.0, "answer": 0.0, "start": START - RAY_START}
    return Timing("cpu", {"dm": stage, "adm": stage}, **{**known, **changes})


def predicted(made: Plan, *nodes: NodeKind, ahead: Upcoming | None = None, **changes: Any) -> Forecast:
    return forecast(made, timing(**changes), nodes, ahead or Upcoming())


def hours(seconds: float) -> float:
    return seconds / 3600


def test_four_equal_students_on_two_slots() -> None:
    found = predicted(plan(*LOCAL), NodeKind("a", cpus=2), open=0.5, segment=0.25)
    assert found.seconds == pytest.approx(START + 2 * (0.5 + ALONE + SEGMENTS * 0.25))
    assert (found.slots, found.replicas, found.replicas_needed) == (2, 0, 0)
    assert found.slot_hours == pytest.approx(2 * hours(found.seconds - START))
    for student in found.students:
        assert student.seconds == pytest.approx(0.5 + ALONE + SEGMENTS * 0.25)
        assert student.images_per_second == pytest.approx(IMAGES / student.seconds)
    assert max(s.done_after for s in found.students) == found.seconds


TRUNK = 1920  # images of the first stage, where it is shared


@pytest.mark.parametrize(
    ("slots", "seconds"),
    [
        (1, START + (TRUNK + 4 * 960) * IMAGE),
        (2, START + TRUNK * IMAGE + START + 2 * 960 * IMAGE),  # the second slot starts when the trunk has ended
        (8, START + TRUNK * IMAGE + START + 960 * IMAGE),
    ],
)
def test_branches_begin_when_their_trunk_is_done_and_its_cost_counts_once(slots: int, seconds: float) -> None:
    made = plan(*LOCAL, "stages.dm.shared=true")
    found = predicted(made, NodeKind("a", cpus=slots))
    assert found.seconds == pytest.approx(seconds)
    trunk, *branches = found.students
    assert (trunk.name, trunk.images) == ("trunk", TRUNK)
    assert trunk.done_after == pytest.approx(START + TRUNK * IMAGE)
    assert [b.images for b in branches] == [960] * 4
    assert all(b.done_after >= trunk.done_after + 960 * IMAGE for b in branches)
    assert max(b.done_after for b in branches) == found.seconds
    assert [s.seconds for s in found.students] == pytest.approx([TRUNK * IMAGE] + [960 * IMAGE] * 4)
    assert found.slots == min(4, slots)
    if slots == 1:
        assert found.slot_hours == pytest.approx(hours(found.seconds - START))


def test_a_tree_of_groups_ends_branch_by_branch() -> None:
    """Each group's students begin when its own trunk is done, and the last of them end the run."""
    lengths = {"a": "640, shared: true", "b": "320, shared: 2", "dm": "320"}
    stages = ", ".join(f"{name}: {{objective: dm, batch: 16, images: {images}}}" for name, images in lengths.items())
    made = plan(*LOCAL, f"stages={{{stages}}}")
    timed = timing()
    timed = Timing("cpu", dict.fromkeys("ab", timed.stages["dm"]) | timed.stages, 0.0, 0.0, 0.0, 0.0, timed.start)
    found = forecast(made, timed, [NodeKind("a", cpus=1)], Upcoming())
    assert found.seconds == pytest.approx(START + (640 + 2 * 320 + 4 * 320) * IMAGE)
    ends = {s.name: s.done_after for s in found.students}
    assert ends["trunk"] < ends["trunk of parts 0 to 1"] < ends["student 0"]
    assert ends["trunk of parts 2 to 3"] < ends["student 2"]


def test_students_of_different_lengths() -> None:
    """The baseline with the images of all students is as long as all of them together."""
    found = predicted(plan(*LOCAL, "evaluation.baselines=true"), NodeKind("a", cpus=6))
    assert [s.seconds for s in found.students] == pytest.approx([ALONE] * 5 + [4 * ALONE])
    assert found.seconds == pytest.approx(START + 4 * ALONE)


def test_stages_have_paces_of_their_own() -> None:
    stages = {"dm": StageTiming(0.01), "adm": StageTiming(0.03)}
    paces = Timing("cpu", stages, open=0.0, segment=0.0, teacher=0.0, answer=0.0, start=0.0)
    found = forecast(plan(*LOCAL), paces, [NodeKind("a", cpus=4)])
    assert found.seconds == pytest.approx(RAY_START + 1920 * 0.01 + 960 * 0.03)


def test_slots_that_share_cpus_slow_each_other_down() -> None:
    found = predicted(plan("cluster.teacher=local", "cluster.cpus_per_student=0.25"), NodeKind("a", cpus=2))
    assert found.slots == 4
    assert found.seconds == pytest.approx(4 * (START + ALONE) / 2)


def test_the_pools_work_is_done_on_the_same_cpus() -> None:
    made = plan("cluster.cpus_per_student=0.25", "cluster.pool.cpus=0.25")
    found = predicted(made, NodeKind("a", cpus=2), teacher=0.2 * IMAGE)
    pool_starts, students_start, train = START, 4 * START / 2, 4 * 1.2 * ALONE / 2
    assert found.seconds == pytest.approx(pool_starts + students_start + train)


def test_workers_share_a_students_work() -> None:
    several = ["cluster.workers_per_student=[2, 2]", "training.shards=2"]
    found = predicted(plan(*LOCAL, *several), NodeKind("a", cpus=5))
    assert found.slots == 2
    assert found.seconds == pytest.approx(START + 2 * ALONE / 2)


def test_a_student_that_waits_leaves_its_cpu_to_others() -> None:
    made = plan("cluster.cpus_per_student=0.5", "cluster.pool.cpus=0.0")
    free = predicted(made, NodeKind("a", cpus=2), waits=IMAGE)
    assert free.seconds == pytest.approx(START + 4 * START / 2 + 2 * ALONE)  # each is busy half of the time


def test_a_pool_that_is_too_small_slows_students_down_in_proportion() -> None:
    pool = ["cluster.cpus_per_student=1.0", "cluster.pool.cpus=1.0"]

    def of(replicas: int) -> Forecast:
        size = [f"cluster.pool.max_replicas={replicas}", f"cluster.pool.min_replicas={replicas}"]
        return predicted(plan(*pool, *size), NodeKind("a", cpus=100), teacher=IMAGE)  # each keeps a replica busy

    for replicas, factor in [(1, 4.0), (2, 2.0), (3, 4 / 3), (4, 1.0), (5, 1.0)]:
        found = of(replicas)
        assert found.seconds == pytest.approx(2 * START + factor * ALONE)
        assert (found.replicas, found.replicas_needed) == (replicas, 5)  # four, busy at most 80 % of the time


def test_a_pool_that_is_too_small_holds_up_those_alone_that_ask_it() -> None:
    sharing = Sharing(Replicas({"a": 1}, capacity=1.0))
    sharing.begin(0, Effort(1.0, asks=2.0), "b", devices=8.0, speed=1.0)
    sharing.begin(1, Effort(1.0), "b", devices=8.0, speed=1.0)
    sharing.begin(2, Effort(1.0, asks=1.0), "c", devices=8.0, speed=2.0)
    assert dict(sharing.changes()) == {0: 0.25, 1: 1.0, 2: 0.5}
    sharing.end(2, "c")
    assert dict(sharing.changes()) == {0: 0.5}


def test_replicas_beyond_the_first_get_what_students_leave() -> None:
    grows = ["cluster.pool.max_replicas=4", "cluster.pool.cpus=1.0", "cluster.cpus_per_student=1.0"]
    assert predicted(plan(*grows), NodeKind("a", cpus=7)).replicas == 3
    assert predicted(plan(*grows), NodeKind("a", cpus=5)).replicas == 1


def test_faster_nodes_train_faster() -> None:
    found = predicted(plan(*LOCAL, k=2), NodeKind("slow"), NodeKind("fast", speed=3.0))
    assert [s.seconds for s in found.students] == pytest.approx([ALONE / 3, ALONE])
    assert found.seconds == pytest.approx(START + ALONE)
    several = predicted(plan(*LOCAL), NodeKind("slow"), NodeKind("fast", speed=3.0))
    least = START + (4 * ALONE - 2 * START) / 4  # the fast one begins 2 s earlier, at three times the speed
    assert least <= several.seconds <= least + 2 * ALONE / SEGMENTS


def test_a_node_that_leaves_takes_a_segment_with_it() -> None:
    found = predicted(plan(*LOCAL, k=2), NodeKind("a"), NodeKind("b", leaves_hours=hours(10.0)))
    saved = 2 * 320 * IMAGE  # of the seven seconds that it trained
    assert found.seconds == pytest.approx(START + 2 * ALONE - saved)


def test_a_node_that_joins_helps_from_then_on() -> None:
    found = predicted(plan(*LOCAL, k=2), NodeKind("a"), NodeKind("b", joins_hours=hours(10.0)))
    least = (2 * ALONE + START + 10.0 + START) / 2
    assert least <= found.seconds <= least + ALONE / SEGMENTS


def test_a_run_that_no_node_stays_for_is_refused() -> None:
    with pytest.raises(UserError, match="4 of 4 would never end: no node that has room"):
        predicted(plan(*LOCAL), NodeKind("a", leaves_hours=hours(10.0)))


def test_what_comes_before_the_students_is_told_apart() -> None:
    made, node = plan("cluster.cpus_per_student=1.0", "cluster.pool.cpus=1.0"), NodeKind("a", cpus=5)
    found = predicted(made, node, ahead=Upcoming(teacher=True, pairs=100, ray=7.0), answer=0.002)
    assert found.pairs_seconds == pytest.approx(100 * 35 * 0.002)
    assert found.teacher_seconds == pytest.approx(START)
    assert found.seconds == pytest.approx(7 + START + found.pairs_seconds + 2 * START + ALONE)
    longer = predicted(made, node, ahead=Upcoming(teacher=True), teacher=0.0)
    assert longer.teacher_seconds == pytest.approx(START)


def test_the_teachers_own_training() -> None:
    stages = {name: StageTiming(IMAGE) for name in ("dm", "adm")}
    paces = Timing("cpu", stages, open=0.0, segment=0.0, teacher=0.005, answer=0.0, start=0.0)
    found = forecast(plan(*LOCAL), paces, [NodeKind("a", cpus=4, speed=2.0)], Upcoming(teacher=True))
    assert found.teacher_seconds == pytest.approx((RAY_START + 6_400 * 0.005) / 2)
    assert found.seconds == pytest.approx(found.teacher_seconds + (RAY_START + ALONE) / 2)
    assert found.slot_hours == pytest.approx(hours(6_400 * 0.005 + 4 * ALONE) / 2)


def test_gpu_hours_and_cost() -> None:
    made = plan("cluster.gpus_per_student=0.5", "cluster.pool.gpus=1", "cluster.price=2.0")
    found = predicted(made, NodeKind("a", cpus=8, gpus=3))
    training = 2 * ALONE  # two by two on the two GPUs that the pool leaves
    assert found.seconds == pytest.approx(START + 2 * START + training)
    assert found.slot_hours == pytest.approx(4 * hours(training))
    assert found.gpu_hours == pytest.approx(0.5 * found.slot_hours + hours(found.seconds))
    assert found.cost == pytest.approx(2.0 * found.slot_hours)
    nodes = [NodeKind("a", cpus=8, gpus=3, price=5.0), NodeKind("b", price=1.0, leaves_hours=hours(12.0))]
    assert predicted(made, *nodes).cost == pytest.approx(5.0 * hours(found.seconds) + 1.0 * hours(12.0))


def test_students_that_share_a_gpu_slow_each_other_down() -> None:
    made = plan("cluster.teacher=local", "cluster.gpus_per_student=0.5")
    for gpus in (2, 8):  # Ray fills one GPU before it takes the next
        assert predicted(made, NodeKind("a", cpus=8, gpus=gpus)).seconds == pytest.approx(2 * (START + ALONE))
    apart = plan("cluster.teacher=local", "cluster.gpus_per_student=1")
    assert predicted(apart, NodeKind("a", cpus=8, gpus=8)).seconds == pytest.approx(START + ALONE)


def test_long_runs_are_forecast_in_few_steps() -> None:
    made = plan(*LOCAL, "stages.dm.images=480_000_000", "training.checkpoint_every=48_000_000")
    found = predicted(made, NodeKind("a", cpus=4))
    assert found.seconds == pytest.approx(START + 480_000_960 * IMAGE)


CONFIG = ClusterConfig(cpus_per_student=2, pool=PoolConfig(cpus=1))


@pytest.mark.parametrize(
    ("nodes", "config", "message"),
    [
        ([NodeKind("a", cpus=2)], CONFIG, "needs 9 CPUs .* at the very least 3, .* the cluster has 2: add nodes"),
        ([NodeKind("a", cpus=8)], ClusterConfig(gpus_per_student=1), "needs 4 GPUs .* the cluster has 0: add nodes"),
        ([NodeKind("a", cpus=1, count=5)], CONFIG, r"no node has room for a student \(2 CPU, 0 GPU\)"),
        ([NodeKind("a", cpus=9, joins_hours=1.0)], CONFIG, "the cluster has 0"),
        ([NodeKind("a", cpus=5)], ClusterConfig(min_slots=9, cpus_per_student=2), "room for 4 students at a time"),
    ],
)
def test_a_cluster_that_is_too_small_is_told_in_one_line(
    nodes: list[NodeKind], config: ClusterConfig, message: str
) -> None:
    with pytest.raises(UserError, match=message) as told:
        check_fits(4, config, [node for kind in nodes for node in kind.each()])
    assert "\n" not in str(told.value)


def test_the_pool_goes_where_it_can_stay() -> None:
    nodes = [
        NodeKind("spot", cpus=4, leaves_hours=1.0),
        NodeKind("gpus", cpus=4, gpus=1),
        NodeKind("small", cpus=3),
        NodeKind("large", cpus=9),
    ]
    two = PoolConfig(cpus=1, min_replicas=2, max_replicas=2)
    assert lay_out(9, ClusterConfig(pool=two), nodes).replicas.on == {"small": 2}
    spread = PoolConfig(cpus=1, min_replicas=2, max_replicas=2, placement="spread")
    layout = lay_out(9, ClusterConfig(pool=spread), nodes)
    assert layout.replicas.on == {"small": 1, "large": 1}
    assert {node.name: node.slots for node in layout.nodes} == {"spot": 4, "gpus": 4, "small": 2, "large": 8}


def test_efforts_add_up() -> None:
    both = Effort(3.0, busy=1.0, asks=0.5) + Effort(1.0, busy=0.2, asks=0.1)
    assert both.seconds == 4.0
    assert both.seconds * both.busy == pytest.approx(3.0 + 0.2)
    assert both.seconds * both.asks == pytest.approx(1.5 + 0.1)
    assert Effort(0.0) + Effort(0.0) == Effort(0.0)


def test_nobody_gets_more_than_there_is() -> None:
    efforts = {i: Effort(1.0, busy=0.3 + 0.1 * i, asks=0.05 * (i + 1)) for i in range(8)}
    for devices, capacity in [(1.0, math.inf), (3.0, 0.5), (100.0, 0.5), (100.0, 100.0)]:
        sharing = Sharing(Replicas({"a": 1}, capacity, local=True))
        for slot, effort in efforts.items():
            sharing.begin(slot, effort, "a", devices, speed=2.0)
        pace = dict(sharing.changes())
        asked = sum(pace[i] * e.asks for i, e in efforts.items())
        busy = sum(pace[i] / 2.0 * e.busy for i, e in efforts.items())
        assert asked <= capacity + 1e-9
        assert busy <= devices + 1e-9
        assert max(pace.values()) == min(pace.values()) <= 2.0
        assert not dict(sharing.changes())  # nothing has changed since
