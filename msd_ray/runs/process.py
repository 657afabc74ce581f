"""Which process this is, so that another one can tell later whether it still lives; and a process that ends with
its parent."""

import multiprocessing
import os
import platform
import signal
import sys
import threading
import time
from multiprocessing.connection import wait
from typing import Annotated

from pydantic import BaseModel, Field

_NAMESPACE, _BOOT = "/proc/self/ns/pid", "/proc/sys/kernel/random/boot_id"
_TRIES, _PAUSE = 10, 0.5
_STATE, _STARTED = 0, 19  # fields of /proc/<pid>/stat after the name, see proc(5)


class Process(BaseModel, frozen=True):
    """world: the boot and the pid namespace (containers on one host have their own) in which `pid` means something.
    started: in the kernel's ticks since that boot, since pids are used again. Both are empty without a /proc."""

    host: str
    world: str
    pid: Annotated[int, Field(gt=0, lt=2**31)]
    started: str

    @staticmethod
    def this() -> "Process":
        pid = os.getpid()
        return Process(host=platform.node(), world=_world(), pid=pid, started=_started(pid))

    def is_gone(self) -> bool:
        """Whether it has certainly ended; False if this process cannot tell."""
        if not (self.world and self.started) or self.world != _world():
            return False
        try:
            os.kill(self.pid, 0)  # asks only; /proc alone would not do, as it may hide other users' processes
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return _started(self.pid) not in ("", self.started)


def _world() -> str:
    try:
        with open(_BOOT) as file:
            return f"{file.read().strip()} {os.readlink(_NAMESPACE)}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Empty where it cannot be told, "ended" of a process that only waits for its parent to notice its end."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if fields[_STATE] == "Z" else fields[_STARTED]


def end_with_parent() -> None:
    """Makes a child of `multiprocessing` end, and clean up, after its parent has ended, even by kill -9; called in its
    main thread. (An idle child would wait for ever, since each of its siblings could still send work.)"""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    threading.Thread(target=_follow_parent, name="parent", daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent, "this is a child's"
    wait([parent.sentinel])
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # nobody should read of it any more
    for _ in range(_TRIES):  # the running work takes the first as an error, and then waits again
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        time.sleep(_PAUSE)
    os._exit(1)
