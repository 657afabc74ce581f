"""A pod's preStop hook: before the pod ends, the students on it write checkpoints and go on elsewhere.

On the head it stops the driver of a job instead, which ends with a checkpoint of every student.
"""

import argparse
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

POD = "MSD_RAY_POD"
"""The environment variable that the chart gives each pod's processes: its name."""
WORKING = r"^ray::(Slot|ServeReplica)\b"
"""Titles of processes that have something to finish."""
DRIVER = r"\bmsd[-_]ray (train|sweep)\b"
"""The command line of the driver of a job."""
SHELL = r"^\S*sh -c "
"""Ray starts a job's command through a shell. If that ended first, Ray would kill the driver in the middle of its
checkpoint, and would not see its exit code."""
NODE = r"\braylet\b.*--node[-_]id=([0-9a-f]+)"
HEAD = r"\bgcs_server\b"


def drain(
    seconds: float, look: Callable[[], dict[int, str]], tell: Callable[[int], None], pause: float = 0.5
) -> list[str]:
    """Waits until no process on this pod has work to finish, for so many seconds at most.

    look: gives the command lines of the pod's processes by pid. tell: sends a driver SIGTERM. pause: seconds between
    two calls of `look`. Returns the command lines of the processes that were still at work.
    """
    deadline = time.monotonic() + seconds
    drivers = [pid for pid, title in look().items() if re.search(DRIVER, title) and not re.search(SHELL, title)]
    for pid in drivers:
        tell(pid)
    while left := [title for title in look().values() if re.search(f"{WORKING}|{DRIVER}", title)]:
        if time.monotonic() > deadline:
            return left
        time.sleep(pause)
    return []


def command_lines() -> dict[int, str]:
    """The command lines of this pod's other processes, by pid."""
    mine, found = os.environ.get(POD, ""), {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words, environment = _words(entry / "cmdline"), _words(entry / "environ")
        except OSError:  # it ended meanwhile, or is somebody else's
            continue
        if f"{POD}={mine}" in environment:
            found[int(entry.name)] = " ".join(words)
    return found


def node_of(titles: list[str]) -> str:
    """The id of these processes' Ray node; empty on the head, which cannot be drained."""
    if any(re.search(HEAD, title) for title in titles):
        return ""
    return next((found[1] for title in titles if (found := re.search(NODE, title))), "")


def announce(node: str, seconds: int) -> None:
    """Asks Ray to drain a node that ends in so many seconds."""
    command = ["ray", "drain-node", "--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "its pod is ending", "--deadline-remaining-seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        print(f"Ray did not drain this node: {(done.stderr.strip() or 'it gives no reason').splitlines()[-1]}")


def _words(file: Path) -> list[str]:
    return [word.decode(errors="replace") for word in file.read_bytes().split(b"\0") if word]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, required=True, help="until the pod is ended the hard way")
    seconds = parser.parse_args().seconds
    if node := node_of(list(command_lines().values())):
        announce(node, seconds)
    for title in drain(seconds, command_lines, lambda pid: os.kill(pid, signal.SIGTERM)):
        print(f"still at work: {title}", flush=True)


if __name__ == "__main__":
    main()
