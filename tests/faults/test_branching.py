"""A tree cut short: kill -9 of its trunk and branches, and of the command or SIGTERM at the moment of branching. The
weights are those of an undisturbed run, and nothing is left behind."""

import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from msd_ray.errors import TrainingError

from .conftest import FEW, TINY, Ear, Killer, Run, weights_in

pytestmark = [pytest.mark.ray, pytest.mark.slow]
TRUNK, OWN = 960, 640
STAGE = "objective: dm, batch: 16, fake_steps: 1, generator_lr: 1e-3, fake_lr: 1e-3"
TREE = f"stages={{dm: {{{STAGE}, images: {TRUNK}, shared: true}}, own: {{{STAGE}, images: {OWN}}}}}"

DELAYS = [random.Random(i).uniform(0, 0.8) for i in range(20)]
TWENTY = [random.Random(i).uniform(1, TRUNK + OWN) for i in range(20)]


class Assassin(Ear):
    """Kills a student's process once the run has seen so many images, as a trunk or in branches."""

    def __init__(self, moments: list[float]) -> None:
        super().__init__()
        self.moments, self.rng, self.killers = sorted(moments), random.Random(0), list[Killer]()

    def watch(self, statuses: list[Any]) -> None:
        super().watch(statuses)
        newest = {s.name: s.newest.nimg for s in statuses if s.newest}
        seen = newest.pop("trunk", 0) + sum(max(0, nimg - TRUNK) for nimg in newest.values())
        if self.moments and seen >= self.moments[0]:
            self.moments.pop(0)
            self.killers.append(Killer("ray::Slot.advance", self.rng.uniform(0, 0.3)))


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody touched. begun: a copy of its directory with the trunk a segment before its end."""

    weights: dict[str, str]
    begun: Path


@pytest.fixture(scope="module")
def undisturbed(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    from .conftest import train_tiny

    folder, begun = tmp_path_factory.mktemp("branching"), tmp_path_factory.mktemp("begun")
    ear = train_tiny(folder, TREE)
    assert [(s.name, s.progress.nimg) for s in ear.statuses] == [
        ("trunk", TRUNK), ("student 0", TRUNK + OWN), ("student 1", TRUNK + OWN),
    ]  # fmt: skip
    before = f"trunks/0000/ckpt-{TRUNK - 320:012d}"
    for name in ("teacher", before):
        shutil.copytree(folder / name, begun / name)
    for name in ("recipe.json", "partition.json"):
        shutil.copy(folder / name, begun / name)
    return Undisturbed(weights_in(folder), begun)


@pytest.mark.parametrize(
    "moments",
    [[300, TRUNK, TRUNK + 700], pytest.param(TWENTY, marks=pytest.mark.nightly)],
    ids=["each", "twenty"],
)
def test_a_tree_that_is_cut_ends_as_one_that_is_not(
    moments: list[float], train: Run, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    assassin = Assassin(moments)
    train(tmp_path, TREE, "cluster.max_failures=50", ear=assassin)  # kills come faster than segments
    assert assassin.killers and not assassin.moments
    assert [s.state for s in assassin.statuses] == ["done"] * 3
    assert weights_in(tmp_path) == undisturbed.weights
    again = train(tmp_path, TREE)
    assert not again.statuses  # the trunk is not trained anew for branches that are done


def cut_at_the_branching(run_dir: Path, number: signal.Signals, delay: float) -> int:
    """Sends the command a signal so many seconds after the trunk's last update; all that it started must end. Its exit
    status."""
    command = [sys.executable, "-m", "msd_ray", "train", TINY, FEW, TREE, "--run-dir", str(run_dir), "--json"]
    said = run_dir.with_suffix(".said")
    with said.open("w") as stderr:
        driver = subprocess.Popen(command, stderr=stderr, stdout=subprocess.DEVNULL)
    logged = run_dir / "trunks" / "0000" / "metrics" / f"{TRUNK:012d}.json"
    while not logged.exists():  # it is written just before the trunk's last checkpoint
        assert driver.poll() is None, said.read_text()
        time.sleep(0.005)
    time.sleep(delay)
    started = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(number)
    status = driver.wait(60)
    assert started and not psutil.wait_procs(started, timeout=60)[1]
    return status


@pytest.mark.parametrize(
    ("number", "status", "delays"),
    [
        pytest.param(signal.SIGTERM, 143, [0.1], id="term"),
        pytest.param(signal.SIGTERM, 143, DELAYS, id="term-twenty", marks=pytest.mark.nightly),
        pytest.param(signal.SIGKILL, -9, DELAYS, id="kill-twenty", marks=pytest.mark.nightly),
    ],
)
@pytest.mark.timeout(2400)
def test_a_command_that_ends_at_the_branching_goes_on_as_if_it_had_not(
    number: signal.Signals, status: int, delays: list[float], train: Run, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    lost = []
    for i, delay in enumerate(delays):
        run_dir = tmp_path / str(i)
        shutil.copytree(undisturbed.begun, run_dir)
        assert cut_at_the_branching(run_dir, number, delay) == status
        lost += [s.name for s in train(run_dir, TREE).statuses]
        assert weights_in(run_dir) == undisturbed.weights
        made = [*run_dir.glob("students/*/ckpt-*"), *run_dir.glob("trunks/*/ckpt-*")]
        assert len(made) > 2 and all((checkpoint / "manifest.json").exists() for checkpoint in made)
        assert not (run_dir / "lease.json").exists()
    assert {"student 0", "student 1"} <= set(lost) <= {"trunk", "student 0", "student 1"}


def test_a_trunk_that_fails_ends_the_run_in_one_line(train: Run, tmp_path: Path) -> None:
    wild = ["stages.dm.generator_lr=1e9", "stages.dm.warmup=0", "training.max_skipped=0"]
    with pytest.raises(TrainingError, match=r"^3 of 3 did not finish \(trunk: student 0: the gradient") as told:
        train(tmp_path, TREE, *wild)
    assert "\n" not in str(told.value) and "branches off" not in str(told.value)


class Spoiler(Ear):
    """Puts a file where a student's folder should be, before the student begins."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def watch(self, statuses: list[Any]) -> None:
        super().watch(statuses)
        if not self.path.exists():
            self.path.parent.mkdir()
            self.path.write_text("")


def test_a_branch_that_fails_ends_itself_alone(train: Run, undisturbed: Undisturbed, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed.begun, run_dir)
    spoiler = Spoiler(run_dir / "students" / "0000")
    with pytest.raises(TrainingError, match=r"^1 of 3 did not finish \(student 0: ") as told:
        train(run_dir, TREE, ear=spoiler)
    assert "\n" not in str(told.value)
    assert [s.state for s in spoiler.statuses] == ["done", "failed", "done"]
    spoiler.path.unlink()
    assert [s.name for s in train(run_dir, TREE).statuses] == ["student 0"]
    assert weights_in(run_dir) == undisturbed.weights
