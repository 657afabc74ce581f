"""SIGTERM at random moments: does the command end in time, say so, and go on as if nothing had happened?

Starts a command, sends it SIGTERM after a random time, and starts the same command again, until that is done; then the
next, until there were so many signals. Each must end with exit code 143 within 20 s, leave no process a minute later,
and a status that says stopped; what has been trained in the end must be what an undisturbed run has, bit for bit. Exits
with 1 where one of these does not hold.

    python benchmarks/stopping.py [--train 20] [--shared 20] [--sweep 5] [--job 5] [--seed 0] [--quick]

train: digits with both stages, cut short. shared: one student that two workers train together, under Ray Train.
job: the same as train, submitted to a cluster that stays.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from common import finish, say, spread
from job_cluster import Job, job_cluster

from msd_ray.runs.run_status import read_status
from msd_ray.storage import Store, read_manifest
from msd_ray.sweep.sweep_journal import SweepJournal

LIMIT, LEFT = 20.0, 60.0
SHORT = [
    "teacher.images=6_400",
    "stages.dm.images=960",
    "stages.adm.images=320",
    "training.checkpoint_every=640",
    "training.log_every=640",
    "evaluation.samples=64",
    "evaluation.curve_samples=40",
    "evaluation.preview_every=10_000",
    "cluster.cpus_per_student=0.5",
    "cluster.pool.cpus=0.5",
]
TRAIN = [*SHORT, "partition.k=2"]
SHARED = [*SHORT, "partition.k=1", "training.shards=2", "cluster.workers_per_student=[2, 2]"]
SWEEP = """
name: stopped
recipe: toy2d
overrides:
  teacher.images: 12_800
  stages.dm.images: 5_120
  training.checkpoint_every: 2_560
  training.log_every: 1_280
  evaluation.samples: 256
  evaluation.curve_samples: 64
  cluster.cpus_per_student: 0.5
  cluster.pool.cpus: 0.5
space: {partition.k: [1, 2]}
metrics: {fid: min, parameters: min}
"""
CLOCKS = ("latency_ms", "batch_latency_ms", "cpu_seconds", "gpu_seconds")


@dataclass(frozen=True)
class Moment:
    """One signal. after: in seconds. during: what it had said last. seconds: until it ended."""

    after: float
    during: str
    code: int
    seconds: float
    in_one_line: bool
    said_stopped: bool
    left: int

    @property
    def well(self) -> bool:
        return self.code == 143 and self.seconds < LIMIT and self.in_one_line and self.said_stopped and not self.left


class Command:
    """A command in a folder of its own, started as a process."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self.run_dir, self._said = folder / "run", folder / "said"
        self._line = [sys.executable, "-m", "msd_ray", *arguments, "--run-dir", str(self.run_dir)]
        self._env = os.environ | {"MSD_RAY_CACHE": str(folder / "cache")}

    def start(self) -> None:
        with open(self._said, "w") as said:
            self._process = subprocess.Popen(self._line, env=self._env, stdout=subprocess.DEVNULL, stderr=said)

    @property
    def driver(self) -> psutil.Process | None:
        return psutil.Process(self._process.pid)

    def ended(self, seconds: float) -> int | None:
        """Its exit code, None where it has none after so many seconds."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def said(self) -> str:
        return self._said.read_text()


def stopped(command: Any, after: float, begun: bool = True) -> Moment | None:
    """begun: whether the seconds count from the first line that the command says, else from its start. None where
    it ended before."""
    command.start()
    while begun and not command.said() and command.ended(0.5) is None:
        pass
    if (code := command.ended(after)) is not None:
        assert code == 0, command.said()
        return None
    driver = command.driver
    if driver is None:  # the job has not begun yet
        command.ended(600)
        return None
    children, during = driver.children(recursive=True), command.said()
    start = time.monotonic()
    driver.send_signal(signal.SIGTERM)
    code, seconds = command.ended(3 * LIMIT), time.monotonic() - start
    if code == 0:  # all was done already, and it was only ending
        return None
    _, left = psutil.wait_procs(children, timeout=LEFT)
    said = command.said().removeprefix(during)
    return Moment(
        after,
        during=during.splitlines()[-1][:60] if during else "",
        code=-1 if code is None else code,
        seconds=seconds,
        in_one_line=bool(re.search(r"^stopped(; the same .*)?$\n?\Z", said, re.MULTILINE)) and "Trace" not in said,
        said_stopped=says_stopped(command.run_dir),
        left=len(left),
    )


def says_stopped(run_dir: Path) -> bool:
    """Also where no status has been written yet."""
    return not (run_dir / "status.json").exists() or read_status(Store(str(run_dir))).stopped


def sequence(
    make: Callable[[Path], Any], outcome: Callable[[Path], Any], n: int, longest: float, seed: int
) -> dict[str, Any]:
    """So many signals, and whether all that came of it is as it is without."""
    # most signals come once the imports are done, which take longer than all else on a busy machine
    rng, moments, equal = random.Random(seed), list[Moment](), list[bool]()
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:
        calm = make(folder(temporary, "calm"))
        assert stopped(calm, 3600) is None
        wanted = outcome(calm.run_dir)
        while len(moments) < n:
            command = make(folder(temporary, f"stopped-{len(equal)}"))
            while moment := stopped(command, rng.uniform(0, longest) if len(moments) < n else 3600, rng.random() < 0.8):
                moments.append(moment)
                say(f"  {len(moments)} of {n}: {moment}")
            equal.append(outcome(command.run_dir) == wanted)
            say(f"  done, {'equal' if equal[-1] else 'NOT EQUAL'}")
    return {
        "signals": len(moments),
        "well": sum(m.well for m in moments),
        "codes": sorted({m.code for m in moments}),
        "seconds": spread([m.seconds for m in moments]) | {"max": max(m.seconds for m in moments)},
        "left_behind": sum(m.left for m in moments),
        "finished": len(equal),
        "bit_identical": sum(equal),
        "moments": [asdict(m) for m in moments],
    }


def folder(parent: str, name: str) -> Path:
    path = Path(parent) / name
    path.mkdir()
    return path


def weights(run_dir: Path) -> dict[str, str]:
    files = read_manifest(Store(str(run_dir)).child("ensemble")).files
    return {name: entry.sha256 for name, entry in files.items()}


def records(run_dir: Path) -> list[Any]:
    """Choice, state and reports of each trial, but for what a clock measured."""
    return [
        (r.choice, r.state, [replace(report, **dict.fromkeys(CLOCKS, 0.0)) for report in r.reports])
        for r in SweepJournal(Store(str(run_dir))).records
    ]


def sweep_in(path: Path) -> Command:
    definition = path / "stopped.yaml"
    definition.write_text(SWEEP)
    return Command(["sweep", str(definition)], path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, n in [("train", 20), ("shared", 20), ("sweep", 5), ("job", 5)]:
        parser.add_argument(f"--{name}", type=int, default=n, help="signals")
    parser.add_argument("--longest", type=float, default=25.0, help="seconds after which a signal comes at the latest")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="one signal to train")
    args = parser.parse_args()
    if args.quick:
        args.train, args.shared, args.sweep, args.job = 1, 0, 0, 0
    with ExitStack() as stack:
        made: dict[str, tuple[Callable[[], Callable[[Path], Any]], Callable[[Path], Any]]] = {
            "train": (lambda: lambda path: Command(["train", "digits", *TRAIN], path), weights),
            "shared": (lambda: lambda path: Command(["train", "digits", *SHARED], path), weights),
            "sweep": (lambda: sweep_in, records),
            "job": (lambda: partial(Job, stack.enter_context(job_cluster()), ["train", "digits", *TRAIN]), weights),
        }
        found = {}
        for name, (maker, outcome) in made.items():
            if n := getattr(args, name):
                say(name)
                found[name] = sequence(maker(), outcome, n, args.longest, args.seed)
    finish("stopping", {"seed": args.seed, **found})
    bad = [n for n, f in found.items() if f["well"] < f["signals"] or f["bit_identical"] < f["finished"]]
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
