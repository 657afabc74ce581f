"""kill -9 of student and teacher actors and of the driver: the run completes, and nobody can tell from its weights."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from .conftest import FEW, TINY, Ear, Killer, Run, Undisturbed, processes, weights_in

pytestmark = [pytest.mark.ray, pytest.mark.slow]


class Assassin(Ear):
    """A Listener that kills a student's and a teacher's process at random moments on the students' way."""

    def __init__(self, moments: int, images: int) -> None:
        super().__init__()
        self.rng = random.Random(0)
        self.moments = sorted(self.rng.uniform(0, 0.8 * images) for _ in range(moments))
        self.killers: list[Killer] = []

    def watch(self, statuses: list[Any]) -> None:
        super().watch(statuses)
        students = sum(s.progress.nimg for s in statuses if s.progress and s.name.startswith("student"))
        if self.moments and students > self.moments[0]:
            self.moments.pop(0)
            for title in ("ray::Slot.advance", "ray::TeacherActor"):
                self.killers.append(Killer(title, self.rng.uniform(0, 0.5)))


@pytest.mark.parametrize("moments", [1, pytest.param(3, marks=pytest.mark.nightly)])
def test_weights_are_those_of_an_undisturbed_run(
    moments: int, train: Run, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    assassin = Assassin(moments, undisturbed.images)
    train(tmp_path, ear=assassin)
    assert len(assassin.killers) == 2 * moments
    assert all(killer.victim for killer in assassin.killers)
    assert [s.state for s in assassin.statuses] == ["done", "done"]
    # More where the machine is so busy that the teacher is long in coming back: then a slot makes room for it.
    assert sum(s.restarts for s in assassin.statuses) >= moments
    assert weights_in(tmp_path) == undisturbed.weights
    deadline = time.monotonic() + 30  # an actor is told to end, not waited for
    while left := processes("ray::Slot") + processes("ray::TeacherActor"):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.2)


@pytest.mark.nightly
def test_two_runs_are_equal_and_other_seeds_are_not(train: Run, undisturbed: Undisturbed, tmp_path: Path) -> None:
    train(tmp_path / "same", "cluster.teacher=local")
    assert weights_in(tmp_path / "same") == undisturbed.weights
    train(tmp_path / "other", "seed=1", "stages.dm.images=160", "stages.adm.images=160")
    assert not set(weights_in(tmp_path / "other").values()) & set(undisturbed.weights.values())


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_the_same_command_resumes_as_often_as_it_takes(undisturbed: Undisturbed, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "msd_ray", "train", TINY, FEW, "--run-dir", str(tmp_path), "--json"]
    rng, orphans = random.Random(0), list[psutil.Process]()
    for _ in range(3):
        orphans += kill_while_students_train(command, rng.uniform(0, 0.6))  # so that there is something left to do
        assert not (tmp_path / "ensemble" / "manifest.json").exists()

    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert weights_in(tmp_path) == undisturbed.weights
    names = [row["name"] for row in json.loads(again.stdout)]
    assert names[:3] == ["real, held out", "teacher", "ensemble"]
    for name in ("report.html", "samples.png", "metrics.parquet"):
        assert (tmp_path / name).stat().st_size > 0
    assert not psutil.wait_procs(orphans, timeout=60)[1]


def kill_while_students_train(command: list[str], delay: float) -> list[psutil.Process]:
    """Kills -9 the driver so many seconds after the first segment of a student; its processes, which must end too."""
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert driver.stderr
    while not re.match(r"student .* training ", line := driver.stderr.readline()):
        assert line, "the driver ended before any student trained"
    time.sleep(delay)
    # Ray's own two agents notice the raylet's end in their own time; they hold no work and no GPU.
    offspring = [p for p in psutil.Process(driver.pid).children(recursive=True) if not p.name().endswith("Agent")]
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    return offspring
