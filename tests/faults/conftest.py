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

from msd_ray.runs.setting import Setting
from msd_ray.storage import Store, read_manifest

TINY = str(Path(__file__).with_name("tiny.yaml"))


@dataclass
class Ear:
    """A Listener that remembers. began: when the first students did."""

    notes: list[str] = field(default_factory=list)
    statuses: list[Any] = field(default_factory=list)
    began: float = 0.0

    def note(self, line: str) -> None:
        self.notes.append(line)

    def watch(self, statuses: list[Any]) -> None:
        self.statuses = statuses
        if not self.began and statuses[0].name.startswith("student"):
            self.began = time.monotonic()


Run = Callable[..., Ear]


@pytest.fixture
def train(cluster: None) -> Run:
    """train(run_dir, *overrides) trains the tiny recipe on the tests' cluster and returns what was heard."""

    def run(run_dir: Path, *overrides: str) -> Ear:
        from msd_ray.cluster.run import train as train_plan

        setting, ear = Setting.of(TINY, list(overrides), str(run_dir)), Ear()
        train_plan(setting.plan, setting.store, setting.cache, None, ear)
        return ear

    return run


@dataclass(frozen=True)
class Undisturbed:
    weights: dict[str, str]
    seconds: float


@pytest.fixture(scope="session")
def undisturbed(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Hashes of the weights of a run that nobody touched, and how long its students took."""
    from msd_ray.cluster.run import train as train_plan

    folder = tmp_path_factory.mktemp("undisturbed")
    setting, ear = Setting.of(TINY, [], str(folder)), Ear()
    train_plan(setting.plan, setting.store, setting.cache, None, ear)
    return Undisturbed(weights_in(folder), time.monotonic() - ear.began)


def weights_in(run_dir: Path) -> dict[str, str]:
    """sha256 of every student in a run's ensemble."""
    files = read_manifest(Store(str(run_dir)).child("ensemble")).files
    return {name: entry.sha256 for name, entry in files.items()}


def processes(title: str, of: int | None = None) -> list[psutil.Process]:
    """Ray workers whose title holds `title`, of this or another driver's cluster."""
    root = psutil.Process(of or os.getpid())
    return [p for p in root.children(recursive=True) if title in _title(p)]


class Killer(threading.Thread):
    """Kills -9 one process of that title, `delay` seconds after the first one is seen. victim: its pid, 0 for none."""

    def __init__(self, title: str, delay: float) -> None:
        super().__init__(daemon=True)
        self.title, self.delay, self.victim = title, delay, 0
        self.start()

    def run(self) -> None:
        deadline = time.monotonic() + 60
        while not processes(self.title) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(self.delay)
        if victims := processes(self.title):
            self.victim = random.Random(self.delay).choice(victims).pid
            os.kill(self.victim, signal.SIGKILL)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
