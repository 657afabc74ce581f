"""The memory of processes over time."""

import statistics
import threading
import time
from typing import Any

import psutil
from served import title_of


class Memory:
    """Looks at a process and all that descend from it, from the begin of its block to the end. Of each it takes the
    bytes that no other process shares (USS)."""

    def __init__(self, root: int, every: float) -> None:
        """every: seconds between two looks."""
        self._root, self._every, self._end = root, every, threading.Event()
        self._seen: dict[tuple[int, float], tuple[str, list[tuple[float, int]]]] = {}
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Memory":
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *of_an_error: Any) -> None:
        self._end.set()
        self._thread.join()

    def growth(self, warm: float) -> dict[str, dict[str, float]]:
        """Of each process that lived from `warm` seconds after the begin to the end: the median of its first looks (a
        quarter) and its last, in MB, and by what share the latter is larger."""
        last, found = max((looks[-1][0] for _, looks in self._seen.values()), default=0.0), {}
        for (pid, _), (title, looks) in self._seen.items():
            if looks[0][0] <= warm and looks[-1][0] == last and (taken := [uss for at, uss in looks if at >= warm]):
                quarter = max(1, len(taken) // 4)
                first, end = statistics.median(taken[:quarter]), statistics.median(taken[-quarter:])
                sizes = {"first_mb": round(first / 1e6, 1), "last_mb": round(end / 1e6, 1)}
                found[f"{title} {pid}"] = {**sizes, "growth": round(end / first - 1, 4), "looks": len(taken)}
        return found

    def _watch(self) -> None:
        while not self._end.is_set():
            root, at = psutil.Process(self._root), time.monotonic() - self._began
            for process in [root, *root.children(recursive=True)]:
                self._look(process, at)
            self._end.wait(self._every)

    def _look(self, process: psutil.Process, at: float) -> None:
        try:
            key, uss = (process.pid, process.create_time()), process.memory_full_info().uss
        except psutil.Error:
            return
        self._seen.setdefault(key, (_short(title_of(process)), []))[1].append((at, uss))


def _short(title: str) -> str:
    """What the process is, without paths and arguments."""
    words = [word.rpartition("/")[2] for word in title.split() if not word.startswith("-")]
    return " ".join(words[:2])[:60]
