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
import json
import os
import random
import signal
import subprocess
import sys
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
import psutil
import torch
from common import finish, say

from msd_ray.conditions import Classes, PartitionConfig, fit
from msd_ray.diffusion import Noise
from msd_ray.ensemble import ONE_STEP, Ensemble, Member, save_ensemble
from msd_ray.networks import DenoiserSpec, UNetConfig
from msd_ray.serving.client import Client, RefusedError, Retry
from msd_ray.storage import Store

PORT, HTTP_PORT = 19321, 19322
SERVE = [sys.executable, "-m", "msd_ray", "serve"]
VICTIMS = {
    "student": "ServeReplica:msd-ray-part-",
    "gateway, which is the router": "ServeReplica:msd-ray:Gateway",
    "versions": "ServeReplica:msd-ray-versions",
    "controller of Serve": "ServeController",
    "HTTP proxy of Serve": "ProxyActor",
}
SEEDS = 16
Answers = dict[tuple[str, int, int], bytes]


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
        with Client(f"127.0.0.1:{PORT}", seconds=120, retry=retry) as client:
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


def kill(service: int, title: str) -> float:
    """Kills one process of the kind; seconds until there is another in its place."""
    before = {process.pid for process in processes(service, title)}
    begin = time.monotonic()
    os.kill(min(before), signal.SIGKILL)
    while not {process.pid for process in processes(service, title)} - before:
        time.sleep(0.05)
    return round(time.monotonic() - begin, 2)


def processes(service: int, title: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(service).children(recursive=True):
        try:
            if f"ray::{title}" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def told(command: str, *arguments: str, at: str) -> dict[str, float]:
    line = [*SERVE, command, *arguments, "--address", at, "--json"]
    said = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    return {row["name"]: row["weight"] for row in json.loads(said)}


def changes(second: str, at: str, wait: float) -> list[dict[str, float]]:
    """A canary, the whole of the traffic, and back again."""
    said, named = [], ("update", second, "--name", "second")
    for command in ((*named, "--weight", "0.2"), named, ("rollback",)):
        said.append(told(*command, at=at))
        say(f"  {said[-1]}")
        time.sleep(wait)
    return said


def answers_of(uri: str, name: str) -> Answers:
    pairs = [(c, s) for c in range(10) for s in range(SEEDS)]
    samples = Ensemble.load(uri).generate([c for c, _ in pairs], [s for _, s in pairs])
    return {(name, c, s): x.numpy().tobytes() for (c, s), x in zip(pairs, samples, strict=True)}


def random_ensemble(where: Path, seed: int) -> str:
    """Two students, of which the first is the same whatever the seed."""
    partition = fit(PartitionConfig(2, "random"), Classes.numbered(10), noise=Noise(sigma_max=20.0))
    spec = DenoiserSpec(UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0), (1, 8, 8), 10)
    members = []
    for index in range(2):
        torch.manual_seed(index * seed)
        weights = {key: torch.randn(w.shape) / 8 for key, w in spec.build().state_dict().items()}
        members.append(Member(index, spec, 80.0, 0, weights))
    save_ensemble(Store(str(where)), {"name": "random"}, partition, [str(i) for i in range(10)], members, ONE_STEP)
    return str(where)


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
        line = [*SERVE, uri, "--port", str(PORT), "--http-port", str(HTTP_PORT), "gateway.access_log=false"]
        line += [f"students.{key}_replicas={args.replicas}" for key in ("max", "min")]
        service = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
        assert service.stdout
        at = next(said.split()[-1] for said in service.stdout if said.startswith("update:"))
        with Client(f"127.0.0.1:{PORT}") as client:
            first = client.ensemble().versions[0].name
        right, figures = answers_of(uri, first), {}
        for name, title in VICTIMS.items():
            if args.only not in (None, name):
                continue
            figures[name] = under_load(right, args.callers, seconds, lambda title=title: kill(service.pid, title))
            say(f"{name}: {figures[name]}")
        if args.only in (None, "changes"):
            right |= answers_of(second, "second")
            figures["changes"] = under_load(
                right, args.callers, max(seconds, 30.0), lambda: changes(second, at, seconds / 10)
            )
            say(f"changes: {figures['changes']}")
        service.send_signal(signal.SIGTERM)
        code = service.wait(120)
    load = {"seconds": seconds, "callers": args.callers, "replicas": args.replicas}
    finish("serving_faults", {**load, **figures, "exit_code": code})


if __name__ == "__main__":
    main()
