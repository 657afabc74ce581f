"""What callers notice of deaths and of changes: a constant load on a service while its processes are killed -9, one
kind after the other, and while it is updated, tried as a canary and rolled back.

Half of the callers try again as our client does, half never do. Every answer is compared bit for bit with what the
ensemble makes that it names as its version. The time without an answer is the longest between two answers after the
blow, of all callers that try again.

    python benchmarks/serving_faults.py [ENSEMBLE] [--seconds 60] [--callers 4] [--replicas 1] [--only student]
                                        [--quick]

Without ENSEMBLE it serves two students of tiny pictures with random weights. p50_ms and p99_ms: of the answers before
the blow and in the ten seconds after it, to callers that try again.
"""

import argparse
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, say
from served import GATEWAY, SEEDS, STUDENT, WHERE, Answers, Served, answers_of, random_ensemble, served

from msd_ray.serving.client import Client, RefusedError, Retry

VICTIMS = {
    "student": STUDENT,
    "gateway, which is the router": GATEWAY,
    "versions": "ServeReplica:msd-ray-versions",
    "controller of Serve": "ServeController",
    "HTTP proxy of Serve": "ProxyActor",
}


@dataclass
class Heard:
    """What callers of one kind heard. ended: when each answer came, seconds of the monotonic clock; took: how long it
    took, seconds. wrong: images that are not what their version makes."""

    right: Answers
    ended: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    wrong: int = 0

    def ask(self, retry: Retry, rng: random.Random, stop: threading.Event) -> None:
        with Client(WHERE, seconds=120, retry=retry) as client:
            while not stop.is_set():
                classes, seeds = [rng.randrange(10) for _ in range(2)], [rng.randrange(SEEDS) for _ in range(2)]
                asked = time.monotonic()
                try:
                    made = client.generate(classes, seeds, "float32")
                except RefusedError as error:
                    self.errors[error.code] += 1
                    time.sleep(0.05)
                    continue
                now = time.monotonic()
                self.took.append(now - asked)  # before `ended`, which is read first
                self.ended.append(now)
                self.versions.update(image.version for image in made)
                self.wrong += sum(image.data != self.right[image.version, image.class_id, image.seed] for image in made)

    def longest_pause(self, since: float) -> float:
        times = sorted([since, *(at for at in self.ended if at > since), time.monotonic()])
        return max(after - before for before, after in pairwise(times))

    def times(self, since: float, until: float) -> dict[str, Any]:
        found = [took for ended, took in zip(list(self.ended), self.took, strict=False) if since <= ended < until]
        p50, p99 = (round(1000 * float(np.percentile(found or [0.0], q)), 1) for q in (50, 99))
        return {"answers": len(found), "p50_ms": p50, "p99_ms": p99}

    def figures(self) -> dict[str, Any]:
        return {"answers": len(self.ended), "errors": dict(self.errors), "wrong": self.wrong}


def under_load(right: Answers, callers: int, seconds: float, blow: Callable[[], Any]) -> dict[str, Any]:
    """Asks for so long, with the blow after a third of it."""
    stop, patient, brittle = threading.Event(), Heard(right), Heard(right)
    kinds = [(patient, Retry()), (brittle, Retry(tries=1))]
    threads = [
        threading.Thread(target=heard.ask, args=(retry, random.Random(i), stop))
        for i in range(max(1, callers // 2))
        for heard, retry in kinds
    ]
    for thread in threads:
        thread.start()
    time.sleep(seconds / 3)
    begin = time.monotonic()
    said = blow()
    time.sleep(max(0.0, seconds * 2 / 3 - (time.monotonic() - begin)))
    pause = patient.longest_pause(begin)
    times = {"before": patient.times(0.0, begin), "after": patient.times(begin, begin + 10.0)}
    stop.set()
    for thread in threads:
        thread.join()
    figures = {"with retries": patient.figures(), "without": brittle.figures()}
    return {**figures, **times, "longest_pause_s": round(pause, 2), "versions": dict(patient.versions), "said": said}


def changes(service: Served, second: str, wait: float) -> list[dict[str, float]]:
    """A canary, the whole of the traffic, and back again."""
    said, named = [], ("update", second, "--name", "second")
    for command in ((*named, "--weight", "0.2"), named, ("rollback",)):
        said.append(service.told(*command))
        say(f"  {said[-1]}")
        time.sleep(wait)
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ensemble", nargs="?")
    parser.add_argument("--second", help="to update to; by default an ensemble that differs in one student")
    parser.add_argument("--seconds", type=float, default=60.0, help="of load, for each death and for the changes")
    parser.add_argument("--callers", type=int, default=4)
    parser.add_argument("--replicas", type=int, default=1, help="of each student")
    parser.add_argument("--only", choices=[*VICTIMS, "changes"], help="one kind of death, or the changes")
    parser.add_argument("--quick", action="store_true", help="15 seconds each")
    args = parser.parse_args()
    seconds = 15.0 if args.quick else args.seconds
    with tempfile.TemporaryDirectory() as folder:
        uri = args.ensemble or random_ensemble(Path(folder) / "first", 1)
        second = args.second or random_ensemble(Path(folder) / "second", 2)
        with served(uri, *(f"students.{key}_replicas={args.replicas}" for key in ("max", "min"))) as service:
            right, figures = answers_of(uri, service.first), {}
            for name, title in VICTIMS.items():
                if args.only not in (None, name):
                    continue
                figures[name] = under_load(right, args.callers, seconds, lambda title=title: service.kill(title))
                say(f"{name}: {figures[name]}")
            if args.only in (None, "changes"):
                right |= answers_of(second, "second")
                figures["changes"] = under_load(
                    right, args.callers, max(seconds, 30.0), lambda: changes(service, second, seconds / 10)
                )
                say(f"changes: {figures['changes']}")
            code = service.stop()
    load = {"seconds": seconds, "callers": args.callers, "replicas": args.replicas}
    finish("serving_faults", {**load, **figures, "exit_code": code})


if __name__ == "__main__":
    main()
