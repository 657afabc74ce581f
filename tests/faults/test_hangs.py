"""Processes that stop without dying: they are found, ended and replaced, and nobody can tell from the weights."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from .conftest import Run, Undisturbed, processes, weights_in

pytestmark = [pytest.mark.ray, pytest.mark.slow]


class Stopper(threading.Thread):
    """Sends SIGSTOP to one process of that title, once a student has a checkpoint."""

    def __init__(self, title: str, run_dir: Path) -> None:
        super().__init__(daemon=True)
        self.title, self.run_dir, self.victim = title, run_dir, 0
        self.start()

    def run(self) -> None:
        while not list(self.run_dir.glob("students/*/ckpt-*/manifest.json")):
            time.sleep(0.02)
        while not (found := processes(self.title)):
            time.sleep(0.01)
        self.victim = found[0].pid
        os.kill(self.victim, signal.SIGSTOP)


def test_a_stopped_student_is_found_and_ended(train: Run, undisturbed: Undisturbed, tmp_path: Path) -> None:
    stopper = Stopper("ray::Slot.advance", tmp_path)
    ear = train(tmp_path, "cluster.silence_seconds=12")
    assert stopper.victim
    assert [s.state for s in ear.statuses] == ["done", "done"]
    assert sum(s.restarts for s in ear.statuses) == 1
    assert weights_in(tmp_path) == undisturbed.weights
    deadline = time.monotonic() + 60
    while os.path.exists(f"/proc/{stopper.victim}"):
        assert time.monotonic() < deadline, "it is left behind"
        time.sleep(0.2)
