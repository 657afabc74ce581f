"""A partition that is learned in the middle of a run: the same one, and the same weights, whatever is killed."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from msd_ray.cluster import partition_task
from msd_ray.conditions import PartitionConfig
from msd_ray.conditions.fit import learned
from msd_ray.ensemble import read_description
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_directory import kept_partition
from msd_ray.storage import Store
from msd_ray.training.checkpoints import Checkpoints

from .conftest import FEW, TINY, Ear, Killer, Run, weights_in
from .test_branching import OWN, TREE, TRUNK

pytestmark = [pytest.mark.ray, pytest.mark.slow]
LEARNED = "partition.kind=learned"


class WhileItMeasures(Ear):
    """Kills the process that measures, once it has measured a condition or is about to."""

    def __init__(self) -> None:
        super().__init__()
        self.killer: Killer | None = None

    def watch(self, statuses: list[Any]) -> None:
        super().watch(statuses)
        if any(s.name == partition_task.NAME and s.state in ("starting", "training") for s in statuses):
            self.killer = self.killer or Killer("ray::Slot.advance", 0.0)


@pytest.fixture(scope="module")
def undisturbed(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from .conftest import train_tiny

    folder = tmp_path_factory.mktemp("learned")
    ear = train_tiny(folder, TREE, LEARNED)
    assert [(s.name, s.trunk) for s in ear.statuses] == [
        ("trunk", ""), ("student 0", "partition"), ("student 1", "partition"), ("partition", "trunk"),
    ]  # fmt: skip
    assert [s.progress.nimg for s in ear.statuses] == [TRUNK, TRUNK + OWN, TRUNK + OWN, 4 * 256]
    return folder


def test_what_was_measured_divides_training_and_serving_alike(undisturbed: Path) -> None:
    measured = Checkpoints(Store(str(undisturbed / "partition-learning")), 1).latest()
    assert measured
    expected = learned(measured.tensors["gradients"]["gradients"].numpy(), PartitionConfig(2, "learned"), ())
    kept = kept_partition(Store(str(undisturbed)))
    assert kept == expected == read_description(Store(str(undisturbed / "ensemble"))).partition
    assert RunContext.of(TINY, [TREE, LEARNED], str(undisturbed)).plan.ensembles[0].partition == expected


def test_a_process_killed_while_it_measures(train: Run, undisturbed: Path, tmp_path: Path) -> None:
    ear = WhileItMeasures()
    train(tmp_path, TREE, LEARNED, ear=ear)
    assert ear.killer and ear.killer.victim
    assert [s.state for s in ear.statuses] == ["done"] * 4
    assert (tmp_path / "partition.json").read_text() == (undisturbed / "partition.json").read_text()
    assert weights_in(tmp_path) == weights_in(undisturbed)
    assert not train(tmp_path, TREE, LEARNED).statuses  # it is not learned again


def test_a_command_killed_while_it_measures(train: Run, undisturbed: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "msd_ray", "train", TINY, FEW, TREE, LEARNED, "--run-dir", str(tmp_path / "run")]
    with (tmp_path / "said").open("w") as said:
        driver = subprocess.Popen(command, stderr=said, stdout=subprocess.DEVNULL)
    while not list((tmp_path / "run" / "partition-learning").glob("ckpt-*")):
        assert driver.poll() is None, (tmp_path / "said").read_text()
        time.sleep(0.005)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    train(tmp_path / "run", TREE, LEARNED)
    assert weights_in(tmp_path / "run") == weights_in(undisturbed)
    assert json.loads((tmp_path / "run" / "partition.json").read_text())["kind"] == "learned"
