"""kill -9 of the driver: only agents of Ray outlive it, and the same command again ends as if undisturbed."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from .conftest import TINY, Undisturbed, weights_in

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.timeout(600)
def test_the_same_command_resumes_as_often_as_it_takes(undisturbed: Undisturbed, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "msd_ray", "train", TINY, "--run-dir", str(tmp_path), "--json"]
    rng = random.Random(0)
    for _ in range(3):
        kill_while_students_train(command, rng.uniform(0, 0.6))  # so that there is something left to do
        assert not (tmp_path / "ensemble" / "manifest.json").exists()

    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert weights_in(tmp_path) == undisturbed.weights
    names = [row["name"] for row in json.loads(again.stdout)]
    assert names[:3] == ["real, held out", "teacher", "ensemble"]
    for name in ("report.html", "samples.png", "metrics.parquet"):
        assert (tmp_path / name).stat().st_size > 0


def kill_while_students_train(command: list[str], delay: float) -> None:
    """Kills -9 the driver so many seconds after the first segment of a student; its processes must end with it."""
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert driver.stderr
    while not re.match(r"student .* training ", line := driver.stderr.readline()):
        assert line, "the driver ended before any student trained"
    time.sleep(delay)
    # Ray's own two agents notice the raylet's end in their own time; they hold no work and no GPU.
    offspring = [p for p in psutil.Process(driver.pid).children(recursive=True) if not p.name().endswith("Agent")]
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(offspring, timeout=60)
    assert not alive
