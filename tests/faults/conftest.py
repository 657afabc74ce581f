"""Runs of the tiny recipe, an undisturbed one to compare with, and a hand that kills."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from msd_ray.runs.run_context import RunContext
from msd_ray.storage import Store, read_manifest

TINY = str(Path(__file__).with_name("tiny.yaml"))
FEW = "cluster.max_slots=2"  # or more processes would start to measure than there is work for


@dataclass
class Ear:
    """A Listener that remembers."""

    notes: list[str] = field(default_factory=list)
    statuses: list[Any] = field(default_factory=list)

    def note(self, line: str) -> None:
        self.notes.append(line)

    def watch(self, statuses: list[Any]) -> None:
        self.statuses = statuses


Run = Callable[..., Ear]


@pytest.fixture
def train(cluster: None) -> Run:
    """train(run_dir, *overrides, ear=...) trains the tiny recipe on the tests' cluster and returns what was heard."""
    return train_tiny


def train_tiny(run_dir: Path, *overrides: str, ear: Ear | None = None) -> Ear:
    from msd_ray.cluster.train import train as train_plan

    context, ear = RunContext.of(TINY, list(overrides), str(run_dir)), ear or Ear()
    train_plan(context.plan, context.store, context.cache, None, ear)
    return ear


def on_the_cluster() -> list[str]:
    """Options with which a command uses the tests' cluster, rather than start one."""
    import ray

    return ["--address", ray.get_runtime_context().gcs_address]


@dataclass(frozen=True)
class Undisturbed:
    """What a run that nobody touched came to. weights: their hashes. images: of all students together."""

    weights: dict[str, str]
    images: int


@pytest.fixture(scope="session")
def undisturbed(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    train_tiny(folder)
    return Undisturbed(weights_in(folder), RunContext.of(TINY, [], str(folder)).plan.ensembles[0].images)


def weights_in(run_dir: Path | str) -> dict[str, str]:
    """sha256 of every student in a run's ensemble."""
    files = read_manifest(Store(str(run_dir)).child("ensemble")).files
    return {name: entry.sha256 for name, entry in files.items()}


def processes(title: str, of: int | None = None) -> list[psutil.Process]:
    """Ray workers whose title holds `title`, of this or another driver's cluster."""
    root = psutil.Process(of or os.getpid())
    return [p for p in root.children(recursive=True) if title in _title(p)]


class Killer(threading.Thread):
    """Kills -9 one process of that title, after `delay` seconds or once there is one. victim: its pid, 0 for none."""

    def __init__(self, title: str, delay: float) -> None:
        super().__init__(daemon=True)
        self.title, self.delay, self.victim = title, delay, 0
        self.start()

    def run(self) -> None:
        time.sleep(self.delay)
        deadline = time.monotonic() + 60
        while not (victims := processes(self.title)) and time.monotonic() < deadline:
            time.sleep(0.1)  # looking through all processes takes the CPU time that they need to start
        if victims:
            self.victim = random.Random(self.delay).choice(victims).pid
            os.kill(self.victim, signal.SIGKILL)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
