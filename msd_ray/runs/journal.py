"""What happened in a run, a JSON object per line: events.jsonl, and one file per student."""

import json
import time
from typing import Any

from msd_ray.storage import Store


class Journal:
    """Adds lines to a file, after those that earlier drivers wrote. An object store cannot append, so the file is
    written whole, when asked to."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        self._lines = [json.dumps(entry) for entry in read_journal(store, name)]
        self._written = len(self._lines)

    def add(self, kind: str, **facts: Any) -> None:
        """Remembers an event, with the time in seconds since 1970."""
        self._lines.append(json.dumps({"time": round(time.time(), 3), "event": kind, **facts}))

    def write(self) -> None:
        """Puts what is new into the file."""
        if len(self._lines) > self._written:
            self._store.write(self._name, "".join(f"{line}\n" for line in self._lines).encode())
            self._written = len(self._lines)


def read_journal(store: Store, name: str) -> list[dict[str, Any]]:
    """The entries of a journal; none where there is no such file. Lines that are not whole are left out."""
    try:
        text = store.read(name).decode(errors="replace")
    except FileNotFoundError:
        return []
    entries = []
    for line in text.splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries
