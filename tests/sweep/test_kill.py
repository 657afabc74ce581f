"""kill -9 of a sweep's driver, again and again: the same command ends as if nothing had happened."""

import dataclasses
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from msd_ray.storage import Store
from msd_ray.sweep.sweep_journal import SweepJournal

from .cases import SAID, Notes, recipe_space

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ASHA = {
    "scheduler": {"kind": "asha", "first": 80, "factor": 2},
    "trials": {"slots": 2},
    "overrides": {**SAID["overrides"], "training.checkpoint_every": 80},
}
MEASURED: dict[str, Any] = dict.fromkeys(("latency_ms", "batch_latency_ms", "cpu_seconds", "gpu_seconds"), 0.0)
"""What a clock says is never the same twice."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.nightly)])
def test_trials_and_decisions_are_those_of_a_sweep_that_nobody_disturbed(
    kills: int, cluster: None, tmp_path: Path
) -> None:
    import ray

    from msd_ray.sweep.sweep import sweep

    calm, killed = tmp_path / "calm", tmp_path / "killed"
    sweep(recipe_space(**ASHA), Store(str(calm)), None, Notes())
    assert "stopped" in [state for _, state, _ in outcome(calm)]

    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(SAID | ASHA, sort_keys=False))
    command = [sys.executable, "-m", "msd_ray", "sweep", str(tmp_path / "tiny.yaml"), "--run-dir", str(killed)]
    command += ["--address", ray.get_runtime_context().gcs_address]
    rng = random.Random(0)
    for _ in range(kills):
        signal_after_a_report(command, signal.SIGKILL, rng.uniform(0, 1.5))
        assert outcome(killed) != outcome(calm)  # so there was something left to do
    code, err = signal_after_a_report(command, signal.SIGTERM, 0.0)
    assert code == 143
    assert err.endswith("stopped; the same command goes on from the last checkpoint\n")
    assert (killed / "sweep.parquet").exists() and (killed / "report.html").exists()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert outcome(killed) == outcome(calm)
    assert (killed / "sweep.parquet").exists()


def outcome(folder: Path) -> list[Any]:
    """Choice, state and reports of each trial, but for what a clock measured."""
    return [
        (r.choice, r.state, [dataclasses.replace(report, **MEASURED) for report in r.reports])
        for r in SweepJournal(Store(str(folder))).records
    ]


def signal_after_a_report(command: list[str], number: int, delay: float) -> tuple[int, str]:
    """Sends the driver a signal so many seconds after the next report of a trial; its exit code, and what it said
    then."""
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert driver.stderr
    while not re.match(r"trial \d+: ", line := driver.stderr.readline()):
        assert line, "the driver ended before any trial reported"
    time.sleep(delay)
    os.kill(driver.pid, number)
    _, err = driver.communicate()
    return driver.returncode, err
