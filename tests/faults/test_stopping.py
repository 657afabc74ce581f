"""SIGTERM to the command at random moments: it saves, says so in one line, and the same command goes on bit by bit."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from .conftest import FEW, TINY, Undisturbed, on_the_cluster, train_tiny, weights_in

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SAID = "stopped; the same command goes on from the last checkpoint"


def stopped(command: list[str], number: int, when: str, delay: float) -> str:
    """Sends the command a signal so many seconds after it said `when`, and sees it end; what it said in all."""
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert driver.stderr
    said = ""
    while when not in said:
        line = driver.stderr.readline()
        assert line, said
        said += line
    time.sleep(delay)
    processes = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(number)
    said += driver.communicate(timeout=60)[1]
    assert driver.returncode == 128 + number, said
    assert said.endswith(f"{SAID}\n")
    assert "Traceback" not in said
    assert not psutil.wait_procs(processes, timeout=60)[1]
    return said


def train(run_dir: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "msd_ray", "train", TINY, FEW, *overrides, "--run-dir", str(run_dir), "--json"]


def status(run_dir: Path) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "msd_ray", "status", str(run_dir), "--json"], capture_output=True)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def checkpoints(run_dir: Path) -> list[int]:
    return [int(path.parent.name[5:]) for path in run_dir.glob("students/*/ckpt-*/manifest.json")]


@pytest.mark.timeout(300)
def test_students_save_in_the_middle_of_a_segment_and_go_on(cluster: None, tmp_path: Path) -> None:
    slow = ["partition.k=1", "stages.dm.fake_steps=80", "training.checkpoint_every=2880"]
    train_tiny(tmp_path / "undisturbed", *slow)
    run_dir = tmp_path / "run"
    stopped(train(run_dir, *slow), signal.SIGTERM, "student 0  training", 0.0)
    (nimg,) = checkpoints(run_dir)
    assert 0 < nimg < 2880
    found = status(run_dir)
    assert (found["stopped"], found["finished"], found["stale"]) == (True, False, False)
    assert found["students"][0]["nimg"] == nimg
    assert not (run_dir / "lease.json").exists()
    again = subprocess.run([*train(run_dir, *slow), *on_the_cluster()], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert weights_in(run_dir) == weights_in(tmp_path / "undisturbed")
    assert (status(run_dir)["stopped"], status(run_dir)["finished"]) == (False, True)


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_at_any_moment(undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While Ray starts, the teacher trains, students train, all is assembled and measured."""
    monkeypatch.setenv("MSD_RAY_CACHE", str(tmp_path / "cache"))  # so that there is a teacher to train
    rng, command = random.Random(0), train(tmp_path / "run")
    for number, when in [
        (signal.SIGINT, "students at a time"),
        (signal.SIGTERM, "teacher  training"),
        (signal.SIGINT, "student 1  training"),
        (signal.SIGTERM, "student 0  done"),
    ]:
        stopped(command, number, when, rng.uniform(0, 1))
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert weights_in(tmp_path / "run") == undisturbed.weights
