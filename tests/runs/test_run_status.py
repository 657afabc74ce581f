"""How a run stands: what is written is read back, and what follows from it."""

import json
import math
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyarrow import fs

from msd_ray.cli import main
from msd_ray.errors import CorruptError, Stopped, UserError
from msd_ray.runs.journal import Journal, read_journal, read_student_journal
from msd_ray.runs.lease import held
from msd_ray.runs.run_status import (
    RunStatus,
    StudentStatus,
    mark_stopped,
    marked_where_stopped,
    read_status,
    write_status,
)
from msd_ray.storage import Store
from msd_ray.terminal import status_lines, status_rows


def student(i: int, nimg: int, rate: float, state: str = "training") -> StudentStatus:
    return StudentStatus(f"student {i}", state, "dm", nimg, 1000, rate, 0.01, 0, 12.0, "fid@100 0.2")


def status(*students: StudentStatus, slots: int = 2) -> RunStatus:
    return RunStatus(time.time(), "host:1", False, slots, 7200.0, 1.5, list(students))


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = status(student(0, 100, 10.0))
    write_status(Store(str(tmp_path)), written)
    assert read_status(Store(str(tmp_path))) == written


def test_a_run_that_never_began_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run that has begun to train"):
        read_status(Store(str(tmp_path)))


@pytest.mark.parametrize("damage", [b"{", b"[]", b'{"time": 1}', b"\xff\xfe"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "status.json").write_bytes(damage)
    with pytest.raises(CorruptError, match="damaged"):
        read_status(Store(str(tmp_path)))


def test_the_time_left_is_that_of_the_slowest_or_of_all_on_the_slots_there_are() -> None:
    assert status(student(0, 900, 10.0), student(1, 0, 10.0)).seconds_left == pytest.approx(100)
    crowd = [student(i, 500, 10.0) for i in range(6)]
    assert status(*crowd).seconds_left == pytest.approx(6 * 50 / 2)
    unknown = [student(0, 500, 10.0), student(1, 0, 0.0, "waiting")]
    assert status(*unknown, slots=1).seconds_left == pytest.approx(50 + 100)
    assert math.isnan(status(student(0, 0, 0.0)).seconds_left)
    assert status(student(0, 1000, 10.0, "done")).seconds_left == 0


def tree(trunk_nimg: int) -> RunStatus:
    """A trunk of 600 images, and two students that branch off from it and train on 400 of their own."""
    trunk = replace(student(0, trunk_nimg, 10.0), name="trunk", images=600)
    waiting = [replace(student(i, 600, 0.0, "waiting"), begins=600, trunk="trunk") for i in range(2)]
    return status(trunk, *waiting)


def test_students_that_wait_for_their_trunk_need_its_time_too_and_count_its_images_once() -> None:
    assert tree(100).seconds_left == pytest.approx(50 + 40)
    assert replace(tree(100), slots=1).seconds_left == pytest.approx(50 + 2 * 40)
    assert tree(600).seconds_left == pytest.approx(40)
    assert (tree(100).students[1].own_images, tree(100).students[1].own_nimg) == (400, 0)


def test_the_table_says_what_branches_off_from_what() -> None:
    headers, rows = status_rows(tree(100))
    shown = [dict(zip(headers, row, strict=True)) for row in rows]
    assert [row["branches off from"] for row in shown] == ["", "trunk", "trunk"]
    assert [(row["kimg"], row["kimg of its own"]) for row in shown[:2]] == [
        ("0.1/0.6", "0.1/0.6"),
        ("0.6/1", "0.0/0.4"),
    ]
    assert "branches off from" not in status_rows(status(student(0, 1, 1.0)))[0]


def test_cost_is_slot_hours_times_price() -> None:
    assert status().cost == pytest.approx(3.0)


def test_a_silent_driver_is_stale_unless_it_finished() -> None:
    old = replace(status(student(0, 1, 1.0)), time=time.time() - 100)
    assert old.stale
    assert not replace(old, finished=True).stale
    assert not status().stale


def test_status_prints_and_gives_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    write_status(store, status(student(0, 500, 10.0), student(1, 1000, 10.0, "done")))
    monkeypatch.setattr("sys.argv", ["msd-ray", "status", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr().out
    assert stop.value.code == 0
    for words in ("1 of 2 done", "2 slots, 10 images/s, about 50.0 s left", "cost 3.00", "0.5/1", "fid@100 0.2"):
        assert words in said
    monkeypatch.setattr("sys.argv", ["msd-ray", "status", str(tmp_path), "--json"])
    with pytest.raises(SystemExit):
        main()
    found = json.loads(capsys.readouterr().out)
    assert (found["seconds_left"], found["cost"], found["stale"]) == (50.0, 3.0, False)


def test_a_driver_that_holds_its_lease_is_never_called_gone(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    old = replace(status(student(0, 1, 1.0)), time=time.time() - 1000)
    write_status(store, old)
    assert read_status(store).stale
    with held(store):
        assert not read_status(store).stale


def test_a_driver_that_died_is_known_to_be_gone_at_once(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_status(store, status(student(0, 1, 1.0)))
    code = f"""
import os
from msd_ray.runs.lease import Lease
from msd_ray.storage import Store
Lease(Store({str(tmp_path)!r})).take()
os._exit(1)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert (tmp_path / "lease.json").exists()
    assert read_status(store).stale


def test_a_driver_that_was_told_to_end_is_said_to_be_stopped(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    mark_stopped(store)
    assert not store.exists("status.json")
    write_status(store, replace(status(student(0, 1, 1.0)), time=time.time() - 1000))
    mark_stopped(store)
    found = read_status(store)
    assert (found.stopped, found.stale) == (True, False)
    assert status_lines(found)[1] == "stopped: the same command goes on"
    mark_stopped(store, False)
    assert read_status(store).stale
    store.write("status.json", b"{")
    mark_stopped(store)
    assert store.read("status.json") == b"{"


def test_a_journal_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for n in range(2):
        journal = Journal(store, "events.jsonl")
        journal.add("started", student="student 0", nimg=n)
        journal.write()
    (tmp_path / "events.jsonl").write_bytes((tmp_path / "events.jsonl").read_bytes() + b'{"half')
    assert [(e["event"], e["nimg"]) for e in read_journal(store, "events.jsonl")] == [("started", 0), ("started", 1)]
    assert read_journal(store, "nothing.jsonl") == []
    journal.add("done")
    journal.write()
    assert [e["event"] for e in read_journal(store, "events.jsonl")] == ["started", "started", "done"]


def test_a_journal_of_an_object_store_is_written_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of which grows with the run. What earlier versions wrote comes first."""
    monkeypatch.setattr("msd_ray.runs.journal.PART", 200)
    store = Store("bucket/run", fs._MockFileSystem())
    store.write("events.jsonl", b'{"event": "old"}\n')
    for driver in range(2):
        journal = Journal(store, "events.jsonl")
        for i in range(20):
            journal.add("started", n=20 * driver + i)
            journal.write()
            journal.write()
    entries = read_journal(store, "events.jsonl")
    assert [e.get("n") for e in entries] == [None, *range(40)]
    assert store.names()[:2] == ["events-000001.jsonl", "events-000002.jsonl"]
    assert len(store.names()) > 8
    assert max(len(store.read(name)) for name in store.names()) < 200 + 100


def test_a_line_that_could_not_be_written_is_written_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    journal = Journal(store, "events.jsonl")
    journal.add("first")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "append", refuse)
        with pytest.raises(UserError):
            journal.write()
    journal.add("second")
    journal.write()
    assert [e["event"] for e in read_journal(store, "events.jsonl")] == ["first", "second"]


def refuse(*args: object) -> bool:
    raise UserError("the disk is full")


def test_a_students_journal_is_read_from_either_layout(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for name, student_name in [("student-1.jsonl", {}), ("students.jsonl", {"student": "student 1"})]:
        journal = Journal(store.child("logs"), name)
        journal.add("training", nimg=10, **student_name)
        journal.add("training", nimg=10, **{**student_name, **({"student": "student 11"} if student_name else {})})
        journal.write()
    assert [e["event"] for e in read_student_journal(store, "student 1")] == ["training"] * 3
    assert len(read_student_journal(store, "student 11")) == 1


def test_places_that_get_no_students_are_shown_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from msd_ray.cluster.monitor import Monitor

    notes: list[str] = []
    listener = SimpleNamespace(note=notes.append, watch=lambda statuses: None)
    monitor = Monitor(Store(str(tmp_path)), 0.0, listener, [])
    monitor.event("shunned", place="n7 GPU 3", seconds=60.0, reason="processes keep dying there")
    monitor.event("shunned", place="n8", seconds=0.0, reason="it was tried again long ago")
    monitor.write()
    assert notes[0] == "n7 GPU 3 gets no students for 1 min 00 s: processes keep dying there"
    monkeypatch.setattr("sys.argv", ["msd-ray", "status", str(tmp_path)])
    with pytest.raises(SystemExit):
        main()
    shown = " ".join("".join(capsys.readouterr()).split())
    assert "n7 GPU 3 gets no students for a while: processes keep dying there" in shown
    assert "n8" not in shown


def test_a_run_that_is_stopped_while_it_is_measured_says_so(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_status(store, replace(status(), finished=True))
    with marked_where_stopped(store):
        assert not read_status(store).stopped
    with pytest.raises(Stopped), marked_where_stopped(store):
        raise Stopped("stopped", 143)
    assert read_status(store).stopped
    assert "stopped: the same command goes on" in status_lines(read_status(store))
