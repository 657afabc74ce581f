"""Rows of benchmarks/gpu.py: each is printed when it is known, has a time limit, and fails alone. What may not hear an
alarm, such as a compiler, runs in a process of its own, which is killed when its time is up."""

import gc
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

Figures = dict[str, Any]
H100_BF16 = 989e12
"""Dense FLOP/s of an H100 SXM in bf16, NVIDIA's data sheet."""


class TimeUp(BaseException):
    """A row's time is up. Not an Exception, so that nothing on the way takes it for its own."""


class Rows:
    """Measures rows one after the other, as long as `seconds` since the start last."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device, self.rows = device, list[Figures]()
        self._end = time.monotonic() + seconds

    def measure(self, name: str, limit: float, act: Callable[[], Figures]) -> Figures:
        """act: gives a row's figures. limit: its seconds, at most all that are left."""
        row, begin = {"row": name}, time.monotonic()
        left = min(limit if self.device.type == "cuda" else 20 * limit, self._end - begin)
        if left < 2:
            return self._said(row | {"error": "no time left"})
        fresh_memory(self.device)
        try:
            with _alarm(left):
                row |= act()
        except TimeUp:
            row["error"] = f"not done in {left:.0f} s"
        except Exception as error:
            first = (str(error).splitlines() or [""])[0]
            row["error"] = f"{type(error).__name__}: {first[:200]}"
        return self._said(row | peak(self.device) | {"row_seconds": round(time.monotonic() - begin, 1)})

    def _said(self, row: Figures) -> Figures:
        print(json.dumps(row), flush=True)
        self.rows.append(row)
        return row


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fresh_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> Figures:
    if device.type != "cuda":
        return {}
    return {"peak_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 2)}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(act: Callable[[], Any], device: torch.device) -> float:
    """Until it is done and the device is idle."""
    wait(device)
    start = time.perf_counter()
    act()
    wait(device)
    return time.perf_counter() - start


def timed(act: Callable[[], Any], device: torch.device, repeats: int, most: float = 8.0) -> tuple[float, list[float]]:
    """Seconds of the first call (compiling, choosing algorithms) and of each of the next, at most so many or until
    `most` seconds have gone."""
    first, later = seconds(act, device), list[float]()
    while len(later) < repeats and (not later or sum(later) < most):
        later.append(seconds(act, device))
    return first, later


def rows_of(command: list[str], seconds: float) -> list[Figures]:
    """The rows that a process prints, printed here too. It is killed, with all that it has started, after `seconds`."""
    found: list[Figures] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        killer = threading.Timer(seconds, lambda: os.killpg(process.pid, signal.SIGKILL))
        killer.start()
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.startswith("{"):  # torch's profiler prints lines of its own
                found.append(json.loads(line))
        code = process.wait()
        killer.cancel()
    if code:
        found.append(
            {"row": command[-1], "error": f"killed after {seconds:.0f} s" if code < 0 else f"exit code {code}"}
        )
        print(json.dumps(found[-1]), flush=True)
    return found
