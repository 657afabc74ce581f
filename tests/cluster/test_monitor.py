"""What is written down and shown of a run, and that the driver waits for no storage."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from msd_ray.cluster.driver import Driver, Terms
from msd_ray.cluster.monitor import Monitor
from msd_ray.cluster.planning.pacing import Pace
from msd_ray.cluster.planning.simulation import Node, NoTask, SimulatedSlots
from msd_ray.cluster.progress import Progress, StudentState
from msd_ray.cluster.slots import NoPool
from msd_ray.cluster.work import ScheduledTask
from msd_ray.runs.journal import read_journal, read_student_journal
from msd_ray.runs.run_status import read_status
from msd_ray.storage import Store
from msd_ray.terminal import Watcher

SEGMENT = Progress(640, "dm", 100.0, False, loss=0.5, fid=0.3, fid_samples=50)
MOVING = Progress(900, "dm", 80.0, False, loss=0.4, begin=640)


class Ear:
    def note(self, line: str) -> None:
        pass

    def watch(self, statuses: list[StudentState]) -> None:
        pass


def board_on(store: Store, monkeypatch: pytest.MonkeyPatch, stopped: bool = False) -> Monitor:
    monkeypatch.setattr("msd_ray.cluster.monitor.RunMetrics", Silent)
    return Monitor(store, 0.0, Ear(), [], lambda: stopped)


class Silent:
    """Takes the place of Ray's meters."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


def test_the_way_through_a_segment_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    monitor = board_on(store, monkeypatch)
    monitor.watch(
        [StudentState("student 0", 1280, "training", SEGMENT, MOVING, slot=0), StudentState("student 1", 1280)]
    )
    monitor.write()
    first, second = read_status(store).students
    assert (first.nimg, first.images_per_second, first.loss, first.quality) == (900, 80.0, 0.4, "fid@50 0.3")
    assert first.left == pytest.approx(380 / 80)
    assert (second.nimg, second.loss, second.state) == (0, None, "waiting")


def test_a_student_is_seen_to_train_before_its_first_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    monitor = board_on(store, monkeypatch)
    monitor.watch([StudentState("student 0", 1280, "training", None, replace(MOVING, begin=0), slot=0)])
    monitor.write()
    (student,) = read_status(store).students
    assert (student.state, student.stage, student.nimg, student.quality) == ("training", "dm", 900, "loss 0.400")


def test_a_driver_that_was_told_to_end_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    board_on(store, monkeypatch, stopped=True).write()
    assert read_status(store).stopped


class Stuck(Store):
    """Whose writes take until they are let go."""

    go = threading.Event()

    def write(self, name: str, data: bytes) -> None:
        self.go.wait()
        super().write(name, data)

    def append(self, name: str, lines: bytes) -> bool:
        self.go.wait()
        return super().append(name, lines)


def test_the_driver_waits_for_no_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It drives a hundred students to their end while the storage answers nothing; then all is written down."""
    monkeypatch.setattr("msd_ray.cluster.monitor.WRITE", 0.0)
    store = Stuck(str(tmp_path))
    monitor = board_on(store, monkeypatch)
    work = [ScheduledTask(f"student {i}", 1000, 100, NoTask()) for i in range(100)]
    Driver(work, SimulatedSlots([Node("a", 8)], Pace(0.01)), Terms(), monitor, NoPool()).run()
    assert not (tmp_path / "status.json").exists()
    store.go.set()
    monitor.write(finished=True)
    found = read_status(store)
    assert (found.finished, {s.state for s in found.students}) == (True, {"done"})
    assert sum(e["event"] == "done" for e in read_journal(store, "events.jsonl")) == 100
    assert len(read_student_journal(store, "student 7")) >= 10
    assert len(list((tmp_path / "logs").iterdir())) == 1


def test_plain_lines_tell_the_way_through_a_segment_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 100.0
    monkeypatch.setattr("msd_ray.terminal.time.monotonic", lambda: clock)
    starting = StudentState("student 0", 1280, "starting", slot=0)
    with Watcher() as watcher:
        watcher.watch([starting])
        for nimg in range(0, 640, 64):
            live = replace(MOVING, nimg=nimg, begin=0, images_per_second=32.0)
            watcher.watch([replace(starting, state="training", live=live)])
            clock += 2.0
        watcher.watch([replace(starting, state="training", progress=SEGMENT)])
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[1] for line in lines] == ["starting", *["training"] * 3]
    assert lines[2] == "student 0  training  dm  0.3/1.28 kimg  32 img/s  loss 0.400  30.0 s left"
    assert "0.6/1.28 kimg" in lines[3] and "fid@50 0.3" in lines[3]
