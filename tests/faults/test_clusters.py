"""A run on clusters whose command is killed, and which goes on where k-means would find other classes."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from msd_ray.data.clusters import Clusters
from msd_ray.runs.run_context import RunContext
from msd_ray.storage import Store

from .conftest import FEW, TINY, Run, weights_in

pytestmark = [pytest.mark.ray, pytest.mark.slow]
OF = "{name: toy2d, options: {classes: 4, samples: 256}}"
CLUSTERS = f"data={{name: clusters, options: {{of: {OF}, k: 4, dimensions: 2}}}}"


def test_a_killed_run_that_is_moved_goes_on_with_the_classes_that_it_began_with(
    train: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "undisturbed", CLUSTERS)
    command = [sys.executable, "-m", "msd_ray", "train", TINY, FEW, CLUSTERS, "--run-dir", str(tmp_path / "killed")]
    with (tmp_path / "said").open("w") as said:
        driver = subprocess.Popen(command, stderr=said, stdout=subprocess.DEVNULL)
    while not list((tmp_path / "killed" / "students").glob("*/ckpt-*")):
        assert driver.poll() is None, (tmp_path / "said").read_text()
        time.sleep(0.005)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert not (tmp_path / "killed" / "ensemble").exists()
    shutil.move(tmp_path / "killed", tmp_path / "moved")
    monkeypatch.setattr(Clusters, "_found", lambda self, data: pytest.fail("k-means was asked again"))
    train(tmp_path / "moved", CLUSTERS)
    assert weights_in(tmp_path / "moved") == weights_in(tmp_path / "undisturbed")
    kept = RunContext.of_run(Store(str(tmp_path / "moved")), [])
    assert kept.data.fingerprint in (tmp_path / "moved" / "data.json").read_text()
