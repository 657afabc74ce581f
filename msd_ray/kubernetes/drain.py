"""A pod's preStop hook: students on it write checkpoints and go on elsewhere before the pod is ended.

On the head it also tells the driver of a job, which ends with a checkpoint of every student.
"""

import argparse
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

WORKING = r"^ray::(Slot|ServeReplica)\b"
"""Titles of processes that have something to finish."""
DRIVER = r"\bmsd[-_]ray(\s+|\S*\s)(train|sweep)\b"
"""The command line of the driver of a job."""


def drain(
    seconds: float, look: Callable[[], dict[int, str]], tell: Callable[[int], None], pause: float = 0.5
) -> list[str]:
    """Waits until nothing on this pod has anything to finish, for so many seconds at most.

    look: the command lines of all processes by pid. tell: sends a driver SIGTERM. pause: seconds between two looks.
    Returns the command lines of those that were still at work.
    """
    deadline = time.monotonic() + seconds
    drivers = [pid for pid, title in look().items() if re.search(DRIVER, title)]
    for pid in drivers:
        tell(pid)
    while left := [title for title in look().values() if re.search(WORKING, title) or re.search(DRIVER, title)]:
        if time.monotonic() > deadline:
            return left
        time.sleep(pause)
    return []


def command_lines() -> dict[int, str]:
    """Of all processes of this pod but this one, by pid."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile
            continue
        found[int(entry.name)] = " ".join(word.decode(errors="replace") for word in words if word)
    return found


def announce(seconds: int) -> None:
    """Tells Ray that this node goes soon. A node that Ray does not let go, such as the head, stays."""
    command = ["ray", "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "the pod is ending"]
    done = subprocess.run(
        [*command, "--deadline-remaining-seconds", str(seconds)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if done.returncode:
        print(f"Ray did not drain this node: {done.stderr.strip().splitlines()[-1:]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, required=True, help="until the pod is ended the hard way")
    seconds = parser.parse_args().seconds
    announce(seconds)
    for title in drain(seconds, command_lines, lambda pid: os.kill(pid, signal.SIGTERM)):
        print(f"still at work: {title}", flush=True)


if __name__ == "__main__":
    main()
