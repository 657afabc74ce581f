"""Journals, one JSON object per line: a run's events.jsonl and logs/students.jsonl, a sweep's journal.jsonl.

If the storage can append, a journal is one file. Object stores cannot: there it is a row of numbered parts, such as
events-000001.jsonl, of which only the last is written again. So the cost of a line does not grow with the journal.
"""

import json
import re
import time
from collections import deque
from pathlib import PurePosixPath
from typing import Any

from msd_ray.storage import Store

PART = 2**16
"""Bytes after which a part is full."""
STUDENTS = "students.jsonl"
"""The journal of all students, in logs/."""


class Journal:
    """Appends lines after those of earlier drivers. `add` and `write` may be called in two threads."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        self._new = deque[str]()
        self._part, self._number = b"", 0  # the last part, and its number; 0 before the first

    def add(self, kind: str, **facts: Any) -> None:
        """Remembers an event, with the time in seconds since 1970."""
        self._new.append(json.dumps({"time": round(time.time(), 3), "event": kind, **facts}))

    def write(self) -> None:
        """Writes the new lines to storage. If that fails, the next call tries again."""
        lines = [self._new.popleft() for _ in range(len(self._new))]
        data = "".join(f"{line}\n" for line in lines).encode()
        try:
            if data and not self._store.append(self._name, data):
                self._write_part(data)
        except BaseException:
            self._new.extendleft(reversed(lines))
            raise

    def _write_part(self, data: bytes) -> None:
        """Earlier drivers' parts are left as they are."""
        if not self._number or len(self._part) >= PART:
            self._part = b""
            self._number = max(_parts(self._store, self._name), default=0) + 1
        self._store.write(_part_name(self._name, self._number), self._part + data)
        self._part += data


def read_journal(store: Store, name: str) -> list[dict[str, Any]]:
    """The entries of a journal; none if it does not exist. Incomplete lines are skipped."""
    numbers = _parts(store, name)
    return [entry for file in [name, *(_part_name(name, n) for n in numbers)] for entry in _entries(store, file)]


def read_student_journal(store: Store, student: str) -> list[dict[str, Any]]:
    """The journal of one student of the run in `store`: a line for each segment, and for each change of state."""
    logs = store.child("logs")
    before = read_journal(logs, f"{student.replace(' ', '-')}.jsonl")  # as earlier versions had it
    return before + [entry for entry in read_journal(logs, STUDENTS) if entry["student"] == student]


def _part_name(name: str, number: int) -> str:
    path = PurePosixPath(name)
    return f"{path.stem}-{number:06d}{path.suffix}"


def _parts(store: Store, name: str) -> list[int]:
    """The numbers of a journal's parts."""
    path = PurePosixPath(name)
    pattern = re.compile(rf"{re.escape(path.stem)}-(\d{{6}}){re.escape(path.suffix)}")
    return sorted(int(found[1]) for found in map(pattern.fullmatch, store.names()) if found)


def _entries(store: Store, file: str) -> list[dict[str, Any]]:
    try:
        text = store.read(file).decode(errors="replace")
    except FileNotFoundError:
        return []
    entries = []
    for line in text.splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return [entry for entry in entries if isinstance(entry, dict) and "event" in entry]
