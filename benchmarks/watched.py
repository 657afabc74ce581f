"""A command with all its processes, watched from outside: its seconds, and the most memory that each kind held."""

import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from common import say

EVERY, LEFT, GB = 0.2, 60.0, 1e9
KINDS = {"ray::Slot": "slot", "ray::TeacherActor": "teacher"}
"""By the titles of processes; the others are `ray`, and the command's own is `command`."""


def watched(
    line: list[str], folder: Path, least_free: float, until: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """Runs a command with its cache and what it says in `folder`, to its end, or to kill -9 as soon as `until()`.

    least_free: GB that the machine must have free, or everything is ended. Returns seconds; memory_gb, the most of one
    process of each kind and of all together; least_free_gb; and after a kill, how many processes were left a minute
    later. Exits where the command fails.
    """
    begin, said, most, free = time.monotonic(), folder / "said", defaultdict[str, float](float), float("inf")
    with open(said, "w") as told:
        environment = os.environ | {"MSD_RAY_CACHE": str(folder / "cache")}
        root = psutil.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=told)
    while root.poll() is None:
        for kind, held in _held(root).items():
            most[kind] = max(most[kind], held)
        free = min(free, psutil.virtual_memory().available / GB)
        if free < least_free:
            _kill(root)
            sys.exit(f"ended, because the machine had {free:.2f} GB free")
        if until():
            return _facts(begin, most, free) | {"left": _kill(root)}
        time.sleep(EVERY)
    if root.returncode:
        sys.exit(f"{' '.join(line)}\nended with {root.returncode}:\n{said.read_text()[-3000:]}")
    return _facts(begin, most, free)


def _facts(begin: float, most: dict[str, float], free: float) -> dict[str, Any]:
    memory = {kind: round(held, 2) for kind, held in most.items()}
    facts = {"seconds": round(time.monotonic() - begin, 1), "memory_gb": memory, "least_free_gb": round(free, 2)}
    say(f"  {facts}")
    return facts


def _held(root: psutil.Process) -> dict[str, float]:
    """GB in memory: the most of one process of each kind, and the sum of all."""
    held = defaultdict[str, float](float)
    for process in _family(root):
        with suppress(psutil.Error):
            own = process.memory_info().rss / GB
            kind = "command" if process == root else _kind(" ".join(process.cmdline()))
            held[kind] = max(held[kind], own)
            held["all"] += own
    return held


def _kind(title: str) -> str:
    return next((kind for part, kind in KINDS.items() if part in title), "ray")


def _family(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _kill(root: psutil.Process) -> int:
    """kill -9 of the command alone; how many of its processes were left some time later, which are then killed too."""
    family = _family(root)
    root.kill()
    _, left = psutil.wait_procs(family, timeout=LEFT)
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    return len(left)
