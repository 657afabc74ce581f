"""kill -9 of the driver: only agents of Ray outlive it, and the same command again ends as if undisturbed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from .conftest import TINY, Undisturbed, weights_in

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("moment", range(3))
def test_the_same_command_resumes(moment: int, undisturbed: Undisturbed, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "msd_ray", "train", TINY, "--run-dir", str(tmp_path), "--json"]
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert driver.stderr
    while "training  dm" not in (line := driver.stderr.readline()):
        assert line, "the driver ended before any student trained"
    time.sleep(random.Random(moment).uniform(0, 2))
    # Ray's own two agents notice the raylet's end in their own time; they hold no work and no GPU.
    offspring = [p for p in psutil.Process(driver.pid).children(recursive=True) if not p.name().endswith("Agent")]
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(offspring, timeout=60)
    assert not alive
    assert not (tmp_path / "ensemble" / "manifest.json").exists()

    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert weights_in(tmp_path) == undisturbed.weights
    names = [row["name"] for row in json.loads(again.stdout)]
    assert names[:3] == ["real, held out", "teacher", "ensemble"]
    for name in ("report.html", "samples.png", "metrics.parquet"):
        assert (tmp_path / name).stat().st_size > 0
