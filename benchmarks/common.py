"""What all benchmarks say of themselves: where they ran, with which versions, and the spread of what they repeat."""

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

from msd_ray.errors import MsdRayError
from msd_ray.proxies import bypass_proxies

bypass_proxies()  # servers here are never asked through a proxy that the environment names


def _one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What a user can mend needs no traceback here either."""
    if isinstance(error, MsdRayError):
        say(f"error: {error}")
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _one_line


def say(line: str) -> None:
    """A line of progress, to standard error."""
    print(line, file=sys.stderr, flush=True)


def finish(benchmark: str, figures: dict[str, Any]) -> None:
    """The last line of standard output: the figures, and what they were measured on."""
    print(json.dumps({"benchmark": benchmark, **figures, **surroundings()}))


def surroundings() -> dict[str, Any]:
    """Date, machine, load and versions."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu_name(),
        "cpus": cpus(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "versions": versions("torch", "numpy", "ray"),
    }


def cpus() -> int:
    """The logical CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's model."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions(*packages: str) -> dict[str, str]:
    """Of Python and of those of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def spread(values: Sequence[float]) -> dict[str, float | int | None]:
    """Mean, standard deviation (of the sample; None for a single value) and n."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": sd, "n": len(values)}
