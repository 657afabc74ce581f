"""What a death costs: seconds from kill -9 of a student's process to its next trained image, and what the others
trained meanwhile.

Trains students of the 2-D mixture, one per CPU, in segments of a single update, so that the end of a segment is the
time of an image. Every so often one student's process is killed. The others' images per second between the death and
the recovery are set against those in as long a time before it.

    python benchmarks/recovery.py [--students 2] [--deaths 5] [--quick]
"""

import argparse
import os
import random
import signal
import tempfile
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from chaos import victims
from common import cpus, finish, say, spread

import ray  # isort: skip
from msd_ray.cluster.train import train
from msd_ray.runs.run_context import RunContext

BATCH = 32
BEFORE = 10.0
"""Seconds of quiet before a death, at least."""


@dataclass
class Clock:
    """A Listener that notes when each student had how many images, and when it was back after a death."""

    seen: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)
    back: list[tuple[str, float]] = field(default_factory=list)

    def note(self, line: str) -> None:
        say(f"  {line}")

    def watch(self, statuses: list[Any]) -> None:
        now = time.monotonic()
        for s in statuses:
            known = self.seen.setdefault(s.name, [])
            if s.progress and (not known or s.progress.nimg != known[-1][1]):
                known.append((now, s.progress.nimg))
            if s.state == "restarting":
                self.away.add(s.name)
            elif s.name in self.away:
                self.away.remove(s.name)
                self.back.append((s.name, now))

    def images(self, name: str, begin: float, end: float) -> int:
        """Trained between two moments, by the student of that name."""
        within = [nimg for at, nimg in self.seen[name] if begin <= at <= end]
        return within[-1] - within[0] if within else 0

    def students(self) -> list[str]:
        return [name for name in self.seen if name.startswith("student") and self.seen[name]]


def strike(clock: Clock, rng: random.Random) -> tuple[str, float, float]:
    """Kills a student that trains; its name, when, and when it had trained again."""
    times, killed = len(clock.back), time.monotonic()
    os.kill(rng.choice(victims("kill student")).pid, signal.SIGKILL)
    while len(clock.back) == times:
        time.sleep(0.01)
    victim, back = clock.back[-1]
    return victim, killed, back


def measured(context: RunContext, deaths: int, students: int) -> tuple[list[float], list[float]]:
    """Seconds of each recovery, and the others' speed during it over that before."""
    clock, rng = Clock(), random.Random(0)
    thread = threading.Thread(
        target=lambda: train(context.plan, context.store, context.cache, None, clock), daemon=True
    )
    thread.start()
    seconds, ratios = [], []
    for _ in range(deaths):
        while len(clock.students()) < students:
            time.sleep(0.1)
        time.sleep(BEFORE + rng.uniform(0, 2))
        victim, killed, back = strike(clock, rng)
        seconds.append(back - killed)
        others = [name for name in clock.students() if name != victim]
        during = sum(clock.images(name, killed, back) for name in others)
        before = sum(clock.images(name, killed - (back - killed), killed) for name in others)
        ratios.append(during / before)
        say(f"  {victim} was back after {seconds[-1]:.1f} s; the others at {ratios[-1]:.2f} of their speed")
    return seconds, ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=int, default=2)
    parser.add_argument("--deaths", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one death")
    args = parser.parse_args()
    deaths = 1 if args.quick else args.deaths
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MSD_RAY_CACHE"] = f"{folder}/cache"
        recipe = [
            f"partition.k={args.students}",
            f"stages={{dm: {{objective: dm, images: 10_000_000, batch: {BATCH}}}}}",
            f"training.checkpoint_every={BATCH}",
            "teacher.images=25_600",
            "data.samples=1024",
            "evaluation.curve_samples=16",
            "cluster.teacher=local",
        ]
        ray.init("local", num_cpus=args.students, include_dashboard=False, logging_level="ERROR")
        seconds, ratios = measured(RunContext.of("toy2d", recipe, f"{folder}/run"), deaths, args.students)
        ray.shutdown()
    finish(
        "recovery",
        {
            "students": args.students,
            "physical_cpus": cpus(),
            "deaths": deaths,
            "seconds_to_next_image": spread(seconds),
            "others_speed_ratio": spread(ratios),
        },
    )
    os._exit(0)  # the training thread has no end of its own


if __name__ == "__main__":
    main()
