"""Ends the processes of a local Ray cluster after the command that started it has ended, even by kill -9.

A program of its own, in a session of its own: `cleanup.py FOLDER`, which imports next to nothing. It waits for the end
of its standard input, then kills the cluster's processes and removes the cluster's folder.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

PATIENCE = 30.0
PAUSE = 0.1
SERVERS = ("gcs_server", "raylet")


def main(folder: str) -> None:
    command = os.getppid()  # which may live on, and has files in the folder as well
    sys.stdin.buffer.read()
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        left = [pid for pid in processes(folder) if pid != command]
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
        if not left and not os.path.exists(folder):
            return
        time.sleep(PAUSE)


def processes(folder: str) -> Iterator[int]:
    """Ray's processes that have a file in the folder open, as all of them have a log. (Ray overwrites their command
    lines and environments.) None if there is no /proc: then Ray's own agents end by themselves after some 85 s."""
    with suppress(FileNotFoundError):
        for name in os.listdir("/proc"):
            with suppress(OSError):  # it has just ended, or is another user's
                if name.isdigit() and _is_rays(name) and _has_open(name, folder):
                    yield int(name)


def _is_rays(pid: str) -> bool:
    program = os.readlink(f"/proc/{pid}/exe")
    return program == os.path.realpath(sys.executable) or os.path.basename(program) in SERVERS


def _has_open(pid: str, folder: str) -> bool:
    descriptors = f"/proc/{pid}/fd"
    return any(os.readlink(f"{descriptors}/{fd}").startswith(f"{folder}/") for fd in os.listdir(descriptors))


if __name__ == "__main__":
    main(sys.argv[1])
