"""Students that two workers train together, under Ray Train: nobody can tell from their weights, whoever is killed."""

import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from msd_ray.errors import TrainingError
from msd_ray.storage import Store
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.records import Records

from .conftest import Ear, Run, processes, train_tiny, weights_in

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
ONE = ["partition.k=1", "training.shards=2", "stages.dm.images=1600", "stages.adm.images=320"]
TWO_WORKERS = [*ONE, "cluster.workers_per_student=[2, 2]"]
STUDENT = Path("students/0000")


@dataclass(frozen=True)
class Alone:
    """What became of the student in a single process that nobody touched."""

    folder: Path
    weights: dict[str, str]
    curve: dict[tuple[str, int, str], float]


@pytest.fixture(scope="module")
def alone(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    folder = tmp_path_factory.mktemp("alone")
    train_tiny(folder, *ONE)
    return Alone(folder, weights_in(folder), curve_of(folder))


def curve_of(run_dir: Path) -> dict[tuple[str, int, str], float]:
    """All that was logged but times."""
    student = Store(str(run_dir / STUDENT))
    newest = Checkpoints(student, keep=2).newest()
    assert newest
    logged = Records(student).until(newest.nimg)
    return {(m.stage, m.nimg, m.name): m.value for m in logged if not m.name.endswith("seconds")}


class Killer(threading.Thread):
    """Kills -9 one process of that title, once the student has a checkpoint of so many images or more; or sends it
    another signal."""

    def __init__(self, title: str, run_dir: Path, nimg: int, how: signal.Signals = signal.SIGKILL) -> None:
        super().__init__(daemon=True)
        self.how = how
        self.title, self.student, self.nimg, self.victim = title, run_dir / STUDENT, nimg, 0
        self.start()

    def run(self) -> None:
        while not any(int(path.parent.name[5:]) >= self.nimg for path in self.student.glob("ckpt-*/manifest.json")):
            time.sleep(0.02)
        self.victim = processes(self.title)[0].pid
        os.kill(self.victim, self.how)


def assert_like(alone: Alone, run_dir: Path) -> None:
    """The weights are equal to the last bit, the losses but for the order in which their means were summed."""
    assert weights_in(run_dir) == alone.weights
    curve = curve_of(run_dir)
    assert curve == pytest.approx(alone.curve, rel=1e-5)
    assert {name for _, _, name in curve} >= {"dm", "fake_score", "fid@16"}


def assert_nothing_is_left() -> None:
    import ray

    assert {group["state"] for group in ray.util.placement_group_table().values()} == {"REMOVED"}


@pytest.mark.nightly
def test_a_killed_worker_and_a_killed_slot_change_nothing(train: Run, alone: Alone, tmp_path: Path) -> None:
    """The slot leaves its room to the next: two groups of workers would not fit beside each other."""
    killers = [Killer("ray::RayTrainWorker", tmp_path, 1), Killer("ray::Slot", tmp_path, 1280)]
    ear = train(tmp_path, *TWO_WORKERS, "cluster.cpus_per_student=1.5")
    assert all(killer.victim for killer in killers)
    assert [(s.state, s.restarts) for s in ear.statuses] == [("done", 1)]  # a worker's death is no restart
    assert_like(alone, tmp_path)
    assert_nothing_is_left()


@pytest.mark.nightly
def test_a_killed_worker_with_a_piece_of_the_weights_changes_little(train: Run, alone: Alone, tmp_path: Path) -> None:
    """Sums over two processes round otherwise than one process does."""
    killer = Killer("ray::RayTrainWorker", tmp_path, 1)
    ear = train(tmp_path, *TWO_WORKERS, "training.sharding=full")
    assert killer.victim
    assert [(s.state, s.restarts) for s in ear.statuses] == [("done", 0)]  # a worker's death is no restart
    ours, theirs = (Checkpoints(Store(str(run / STUDENT)), keep=2).latest() for run in (tmp_path, alone.folder))
    assert ours and theirs
    for name, value in theirs.tensors["ema"].items():
        assert torch.allclose(ours.tensors["ema"][name], value, rtol=0, atol=1e-3), name
    curve = curve_of(tmp_path)
    assert curve.keys() == alone.curve.keys()
    assert {name for _, _, name in curve} >= {"dm", "fake_score", "fid@16"}
    assert_nothing_is_left()


@dataclass
class Counter(Ear):
    """Counts the workers that train the trunk, and those beside each other after it."""

    workers: dict[str, int] = field(default_factory=dict)

    def watch(self, statuses: list[Any]) -> None:
        super().watch(statuses)
        part = "trunk" if statuses[0].state != "done" else "branches"
        now = len(processes("ray::RayTrainWorker"))
        self.workers[part] = max(now, self.workers.get(part, 0))


@pytest.mark.nightly
def test_a_trunk_has_the_workers_that_its_branches_will_share(train: Run, tmp_path: Path) -> None:
    """There is room for two workers: first both train the trunk, then one each of the two branches."""
    stage = "objective: dm, batch: 16, fake_steps: 1, generator_lr: 1e-3, fake_lr: 1e-3"
    tree = f"stages={{dm: {{{stage}, images: 960, shared: true}}, own: {{{stage}, images: 640}}}}"
    train(tmp_path / "alone", tree, "training.shards=2")
    ear = Counter()
    elastic = ["cluster.workers_per_student=[1, 2]", "cluster.cpus_per_student=1.5"]
    train(tmp_path / "elastic", tree, "training.shards=2", *elastic, ear=ear)
    assert ear.workers["trunk"] == 2 and 1 <= ear.workers["branches"] <= 2
    assert [(s.name, s.state, s.restarts) for s in ear.statuses] == [
        ("trunk", "done", 0), ("student 0", "done", 0), ("student 1", "done", 0),
    ]  # fmt: skip
    assert weights_in(tmp_path / "elastic") == weights_in(tmp_path / "alone")
    assert_nothing_is_left()


def test_an_error_of_a_worker_ends_its_student_in_one_line(train: Run, tmp_path: Path) -> None:
    """One that another try would meet as well."""
    wild = ["stages.dm.generator_lr=1e9", "stages.dm.warmup=0", "training.max_skipped=0"]
    with pytest.raises(TrainingError, match=r"student 0: student 0: the gradient was not finite 1 times") as caught:
        train(tmp_path, *TWO_WORKERS, *wild)
    assert "\n" not in str(caught.value)


@pytest.mark.nightly
def test_a_stopped_worker_is_found_with_those_that_wait_for_it(train: Run, alone: Alone, tmp_path: Path) -> None:
    """The slot's process answers meanwhile, and the other worker waits in a collective."""
    stopper = Killer("ray::RayTrainWorker", tmp_path, 1, signal.SIGSTOP)
    ear = train(tmp_path, *TWO_WORKERS, "cluster.silence_seconds=25")
    assert stopper.victim
    assert [(s.state, s.restarts) for s in ear.statuses] == [("done", 1)]
    assert_like(alone, tmp_path)
    assert_nothing_is_left()
    deadline = time.monotonic() + 60
    while os.path.exists(f"/proc/{stopper.victim}"):
        assert time.monotonic() < deadline, "it is left behind"
        time.sleep(0.2)
