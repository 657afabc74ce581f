"""A run whose directory and cache are on S3, where each request takes longer and some fail: trained, killed, resumed,
evaluated and served as on a disk."""

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from msd_ray.ensemble import Ensemble
from msd_ray.runs.run_directory import ensemble_folder
from msd_ray.runs.run_status import read_status
from msd_ray.serving.protocol.formats import to_array
from msd_ray.serving.service.config import StudentConfig
from msd_ray.serving.service.ensemble_facts import describe
from msd_ray.serving.service.student_worker import StudentAtWork
from msd_ray.storage import Store

from ..s3.running import S3
from .conftest import FEW, TINY, Killer, Undisturbed, weights_in

pytestmark = [pytest.mark.ray, pytest.mark.slow]
COMMAND = [sys.executable, "-m", "msd_ray"]
SEGMENTS = "training.checkpoint_every=640"  # half as many checkpoints: the weights do not depend on it

FAR = r"student .* training .* [12]\.\d/2\.88 kimg"  # a checkpoint or more


@pytest.fixture(params=[(0.01, 40), pytest.param((0.05, 20), marks=pytest.mark.nightly)], ids=str)
def run(request: pytest.FixtureRequest, s3: S3, monkeypatch: pytest.MonkeyPatch) -> str:
    delay, every = request.param
    s3.behave(delay=delay, every=every)
    monkeypatch.setenv("MSD_RAY_CACHE", s3.uri("bucket/the cache"))
    return s3.uri("bucket/runs/on S3, ä")


@contextmanager
def training(run: str) -> Iterator["subprocess.Popen[str]"]:
    """The driver of a run, killed -9 at the end."""
    line = [*COMMAND, "train", TINY, FEW, SEGMENTS, "--run-dir", run]
    driver = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    try:
        yield driver
    finally:
        offspring = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
        driver.communicate()
        assert not [p for p in psutil.wait_procs(offspring, timeout=60)[1] if not p.name().endswith("Agent")]


def read_until(driver: "subprocess.Popen[str]", pattern: str) -> None:
    assert driver.stderr
    while not re.match(pattern, line := driver.stderr.readline()):
        assert line, "the driver ended too early"


def told(*commands: list[str]) -> list[str]:
    """What each of the commands, run side by side, writes to its standard output."""
    running = [subprocess.Popen([*COMMAND, *line], stdout=subprocess.PIPE, text=True) for line in commands]
    answers = [process.communicate(timeout=200)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(running)
    return answers


async def served(run: str, pairs: list[tuple[int, int]]) -> torch.Tensor:
    """What replicas of the service make of classes and seeds; each loads its part of the ensemble only."""
    version, made = describe(ensemble_folder(run).uri), list[np.ndarray]()
    for condition, seed in pairs:
        part = version.owners[condition]
        with ThreadPoolExecutor(1) as thread:
            student = await StudentAtWork.load(version.uri, part, version.parts[part], "cpu", StudentConfig(), thread)
            made += [
                to_array(m.data, version.sample_shape) for m in await student.make([(condition, seed)], "float32", 9)
            ]
    return torch.from_numpy(np.stack(made))


@pytest.mark.timeout(600)
def test_a_run_on_s3_is_killed_resumed_evaluated_and_served(
    run: str, s3: S3, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    with training(run) as driver:
        read_until(driver, FAR)
        killer = Killer("ray::Slot.advance", delay=0.0)
        killer.join()
        assert killer.victim
        read_until(driver, r"student .* (waiting|starting) ")
        read_until(driver, FAR)
        while not any(student.nimg for student in read_status(Store(run)).students):
            time.sleep(0.2)  # status is written a little later than the line
    (status,) = told(["status", run, "--json"])
    status = json.loads(status)
    assert any(student["nimg"] for student in status["students"]) and not status["finished"]

    again = subprocess.run([*COMMAND, "train", TINY, FEW, SEGMENTS, "--run-dir", run], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert weights_in(run) == undisturbed.weights

    output = tmp_path / "samples.npy"
    status, rows, _ = told(
        ["status", run, "--json"],
        ["evaluate", run, "--json"],
        ["generate", run, "--seeds", "5-6", "-o", str(output)],
    )
    assert json.loads(status)["finished"]
    assert [row["name"] for row in json.loads(rows)][:3] == ["real, held out", "teacher", "ensemble"]
    expected = Ensemble.load(ensemble_folder(run), torch.device("cpu")).generate([0, 0, 3, 3], [5, 6, 5, 6])
    assert np.array_equal(np.load(output)[[0, 0, 3, 3], [0, 1, 0, 1]], expected.numpy())
    assert torch.equal(asyncio.run(served(run, [(0, 5), (3, 6)])), expected[[0, 3]])
    asked = s3.counted()
    assert not asked["CreateUpload"] and asked["Put"] > 100
