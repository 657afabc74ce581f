"""Processes that stop without dying or go on erring: found, ended and replaced, and nobody can tell from the
weights."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import troubled

from msd_ray.runs.journal import read_journal
from msd_ray.storage import Store
from msd_ray.training.records import Records

from .conftest import Ear, Run, Undisturbed, processes, weights_in

pytestmark = [pytest.mark.ray, pytest.mark.slow]


class Stopper(threading.Thread):
    """Sends SIGSTOP to one process of that title, once a student has a checkpoint."""

    def __init__(self, title: str, run_dir: Path) -> None:
        super().__init__(daemon=True)
        self.title, self.run_dir, self.victim = title, run_dir, 0
        self.start()

    def run(self) -> None:
        while not list(self.run_dir.glob("students/*/ckpt-*/manifest.json")):
            time.sleep(0.02)
        while not (found := processes(self.title)):
            time.sleep(0.1)
        self.victim = found[0].pid
        os.kill(self.victim, signal.SIGSTOP)

    def ended(self) -> bool:
        return bool(self.victim) and not os.path.exists(f"/proc/{self.victim}")


@pytest.mark.nightly
def test_a_stopped_student_and_a_stopped_replica_are_found_and_ended(
    train: Run, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    stoppers = [Stopper(title, tmp_path) for title in ("ray::Slot.advance", "ray::TeacherActor")]
    two = ["cluster.pool.min_replicas=2", "cluster.pool.max_replicas=2", "cluster.pool.silence_seconds=6"]
    ear = train(tmp_path, "cluster.silence_seconds=15", *two)
    assert all(stopper.victim for stopper in stoppers)
    assert [s.state for s in ear.statuses] == ["done", "done"]
    assert sum(s.restarts for s in ear.statuses) >= 1
    assert weights_in(tmp_path) == undisturbed.weights
    deadline = time.monotonic() + 60
    while not all(stopper.ended() for stopper in stoppers):
        assert time.monotonic() < deadline, "they are left behind"
        time.sleep(0.2)


class Counter(Ear):
    """A Listener that remembers the processes of the teacher pool."""

    def __init__(self) -> None:
        super().__init__()
        self.teachers: set[int] = set()

    def watch(self, statuses: list[Any]) -> None:
        super().watch(statuses)
        self.teachers |= {process.pid for process in processes("ray::TeacherActor")}


def test_replicas_each_of_which_errs_after_a_while_fail_no_student(
    train: Run, undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("msd_ray.cluster.pool.pool.TeacherActor", troubled.TeacherActor)
    ear = Counter()
    train(tmp_path, ear=ear)
    assert len(ear.teachers) > 2
    assert [s.state for s in ear.statuses] == ["done", "done"]
    assert weights_in(tmp_path) == undisturbed.weights


@pytest.fixture
def second_node(cluster: None) -> Iterator[str]:
    """The id of another node with two CPUs, that joins the tests' cluster for a while."""
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster()
    nodes.head_node = ray._private.worker.global_worker.node
    node = nodes.add_node(num_cpus=2)
    yield node.node_id
    nodes.remove_node(node)


def test_a_node_on_which_students_meet_errors_is_shunned(
    train: Run, undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second_node: str
) -> None:
    """The one that Ray prefers, since the driver is there."""
    import ray

    sick = ray.get_runtime_context().get_node_id()
    monkeypatch.setattr("msd_ray.cluster.ray_slots.Slot", troubled.slot_of(sick))
    ear = train(tmp_path)
    assert [s.state for s in ear.statuses] == ["done", "done"]
    events = read_journal(Store(str(tmp_path)), "events.jsonl")
    assert {event["place"] for event in events if event["event"] == "shunned"} == {sick}
    assert weights_in(tmp_path) == undisturbed.weights


@pytest.mark.nightly
def test_a_fid_that_never_ends_costs_its_curve_and_nothing_else(
    train: Run, undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("msd_ray.cluster.ray_slots.Slot", troubled.Unmeasurable)
    ear = train(tmp_path, "cluster.silence_seconds=5")
    assert [(s.state, s.restarts) for s in ear.statuses] == [("done", 2)] * 2
    assert weights_in(tmp_path) == undisturbed.weights
    for index in (0, 1):
        logged = Records(Store(str(tmp_path / f"students/{index:04d}"))).until(undisturbed.images // 2)
        assert not [m for m in logged if m.name.startswith("fid@")]
        assert [m.nimg for m in logged if m.name == "wall_seconds"] == list(
            range(320, undisturbed.images // 2 + 1, 320)
        )
