"""Evaluations on a cluster: measured in slots alone, and the same whoever is killed on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from msd_ray.runs import run_results as results
from msd_ray.runs.chunks import OpenChunk
from msd_ray.runs.evaluation_pieces import here

from ..faults.conftest import FEW, Ear
from ..runs.finished import finished

pytestmark = pytest.mark.ray
ONE_STEP = ["stages={dm: {objective: dm, images: 160, batch: 16}}", "partition.kind=sequential"]
SMALL = [*ONE_STEP, FEW, "evaluation.samples=512", "evaluation.batch=64", "teacher.steps=9"]
MANY = "evaluation.samples=10000"


class Named(Ear):
    """Remembers who was ever told of."""

    names: frozenset[str] = frozenset()

    def watch(self, statuses: list[Any]) -> None:
        super().watch(statuses)
        self.names |= {status.name for status in statuses}


def test_nothing_is_measured_in_this_process(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from msd_ray.cluster.evaluation import measuring

    context, ear = finished(tmp_path / "run", SMALL), Named()
    monkeypatch.setenv("MSD_RAY_CACHE", str(tmp_path / "here"))
    expected = results.evaluate_uri(context.store.uri, [], here, ear.note)
    monkeypatch.setenv("MSD_RAY_CACHE", str(tmp_path / "there"))
    monkeypatch.setattr(OpenChunk, "advance", pytest.fail)
    with measuring(None, ear) as complete:
        rows = results.evaluate_uri(context.store.uri, [], complete, ear.note)
    assert [(row.name, row.scores) for row in rows] == [(row.name, row.scores) for row in expected]
    assert rows[1].ms_per_image
    assert [(status.name, status.state) for status in ear.statuses] == [("scores", "done")]
    assert {"teacher", "ensemble", "real samples"} <= ear.names


def test_too_small_a_cluster_is_told_in_one_line(cluster: None, tmp_path: Path) -> None:
    from msd_ray.cluster.evaluation import measuring
    from msd_ray.errors import UserError

    context = finished(tmp_path / "run", [*SMALL, "evaluation.gpus=1", "evaluation.samples=100"])
    with (
        measuring(None, Ear()) as complete,
        pytest.raises(UserError, match=r"needs 0.2 CPUs and 1 GPUs.*evaluation\.gpus"),
    ):
        results.evaluate_uri(context.store.uri, [], complete, lambda _: None)


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_ten_thousand_samples_on_two_slots_survive_any_kill(tmp_path: Path) -> None:
    """Weights are random; the teacher's 11 evaluations of 10,000 samples take most of a minute on two cores."""
    context = finished(tmp_path / "run", ["teacher.steps=6", "cluster.max_slots=2"], "digits")
    undisturbed = evaluated(context.store.uri, tmp_path / "undisturbed")

    command = start(context.store.uri, tmp_path / "killed")
    chunks = tmp_path / "killed"
    wait_until(lambda: len(list(chunks.glob("samples-*/*/*/manifest.json"))) > 3, command)
    slot = next(p for p in psutil.Process(command.pid).children(recursive=True) if "ray::Slot" in " ".join(p.cmdline()))
    slot.kill()
    wait_until(lambda: len(list(chunks.glob("samples-*/*/*/manifest.json"))) > 8, command)
    offspring = psutil.Process(command.pid).children(recursive=True)
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    psutil.wait_procs(offspring, timeout=60)
    measured = {path: path.stat().st_mtime_ns for path in chunks.glob("samples-*/*/*/manifest.json")}
    assert len(measured) > 8

    assert evaluated(context.store.uri, chunks) == undisturbed
    assert undisturbed["teacher"]["n"] == 10_000


def start(uri: str, cache: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "msd_ray", "evaluate", uri, MANY, "--json"]
    environment = os.environ | {"MSD_RAY_CACHE": str(cache)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def evaluated(uri: str, cache: Path) -> dict[str, dict[str, Any]]:
    """The rows that the command prints, without what they cost."""
    command = start(uri, cache)
    out, _ = command.communicate()
    assert command.returncode == 0
    return {row["name"]: {**row, "ms_per_image": None} for row in json.loads(out)}


def wait_until(condition: Any, command: "subprocess.Popen[str]") -> None:
    while not condition():
        assert command.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
