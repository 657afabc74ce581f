"""Students that two workers train together, under Ray Train: nobody can tell from their weights, whoever is killed."""

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from msd_ray.errors import TrainingError
from msd_ray.storage import Store
from msd_ray.training.checkpoints import Checkpoints

from .conftest import Run, processes, weights_in

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
ONE = ["partition.k=1", "training.shards=2", "stages.dm.images=1600", "stages.adm.images=320"]
TWO_WORKERS = [*ONE, "cluster.workers_per_student=[2, 2]"]
STUDENT = Path("students/0000")


@dataclass(frozen=True)
class Alone:
    """What became of the student in a single process that nobody touched."""

    weights: dict[str, str]
    curve: dict[tuple[str, int, str], float]


@pytest.fixture(scope="module")
def alone(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    from msd_ray.cluster.run import train as train_plan
    from msd_ray.runs.setting import Setting

    from .conftest import TINY, Ear

    folder = tmp_path_factory.mktemp("alone")
    setting = Setting.of(TINY, ONE, str(folder))
    train_plan(setting.plan, setting.store, setting.cache, None, Ear())
    return Alone(weights_in(folder), curve_of(folder))


def curve_of(run_dir: Path) -> dict[tuple[str, int, str], float]:
    """All that was logged but times."""
    state = Checkpoints(Store(str(run_dir / STUDENT)), keep=2).latest()
    assert state
    return {(stage, n, name): value for stage, n, name, value in state.meta["metrics"] if not name.endswith("seconds")}


class Killer(threading.Thread):
    """Kills -9 one process of that title, once the student has its first checkpoint. victim: its pid, 0 for none."""

    def __init__(self, title: str, run_dir: Path) -> None:
        super().__init__(daemon=True)
        self.title, self.student, self.victim = title, run_dir / STUDENT, 0
        self.start()

    def run(self) -> None:
        while not list(self.student.glob("ckpt-*/manifest.json")):
            time.sleep(0.02)
        self.victim = processes(self.title)[0].pid
        os.kill(self.victim, signal.SIGKILL)


def assert_like(alone: Alone, run_dir: Path) -> None:
    """The weights are equal to the last bit, the losses but for the order in which their means were summed."""
    assert weights_in(run_dir) == alone.weights
    curve = curve_of(run_dir)
    assert curve == pytest.approx(alone.curve, rel=1e-5)
    assert {name for _, _, name in curve} >= {"dm", "fake_score", "fid@16"}


def assert_nothing_is_left(run_dir: Path) -> None:
    import ray

    assert {group["state"] for group in ray.util.placement_group_table().values()} == {"REMOVED"}
    assert not list(run_dir.glob("students/*/workers"))


def test_a_killed_worker_changes_nothing(train: Run, alone: Alone, tmp_path: Path) -> None:
    killer = Killer("ray::RayTrainWorker", tmp_path)
    ear = train(tmp_path, *TWO_WORKERS)
    assert killer.victim
    assert [(s.state, s.restarts) for s in ear.statuses] == [("done", 0)]
    assert_like(alone, tmp_path)
    assert_nothing_is_left(tmp_path)


def test_a_killed_slot_leaves_its_room_to_the_next(train: Run, alone: Alone, tmp_path: Path) -> None:
    """Two groups of workers would not fit beside each other."""
    killer = Killer("ray::Slot", tmp_path)
    ear = train(tmp_path, *TWO_WORKERS, "cluster.cpus_per_student=1.5")
    assert killer.victim
    assert [(s.state, s.restarts) for s in ear.statuses] == [("done", 1)]
    assert_like(alone, tmp_path)


def test_an_error_of_a_worker_ends_its_student_in_one_line(train: Run, tmp_path: Path) -> None:
    """One that another try would meet as well."""
    wild = ["stages.dm.generator_lr=1e30", "stages.dm.warmup=0", "training.max_skipped=0"]
    with pytest.raises(TrainingError, match=r"student 0: student 0: the gradient was not finite 1 times") as caught:
        train(tmp_path, *TWO_WORKERS, *wild)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("students/*/workers"))
