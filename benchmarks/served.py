"""A service that a benchmark starts, its processes, and what it has to answer."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from msd_ray.conditions import Classes, PartitionConfig, fit
from msd_ray.diffusion import Noise
from msd_ray.ensemble import ONE_STEP, Ensemble, Member, save_ensemble
from msd_ray.networks import DenoiserSpec, UNetConfig
from msd_ray.serving.client import Client
from msd_ray.storage import Store

PORT, HTTP_PORT = 19321, 19322
WHERE = f"127.0.0.1:{PORT}"
SERVE = [sys.executable, "-m", "msd_ray", "serve"]
STUDENT, GATEWAY = "ServeReplica:msd-ray-part-", "ServeReplica:msd-ray:Gateway"
SEEDS = 16
STOPPED = 180
"""Seconds in which a service ends that was told to; a gateway that hangs may take Serve 20 of them, a student 2."""
Answers = dict[tuple[str, int, int], bytes]


@dataclass
class Served:
    """process: of `msd-ray serve`. cluster: the address of its Ray cluster."""

    process: subprocess.Popen[str]
    cluster: str

    @property
    def first(self) -> str:
        """The name of the version with the most traffic."""
        with Client(WHERE) as client:
            return max(client.ensemble().versions, key=lambda version: version.weight).name

    def replicas(self, title: str) -> list[psutil.Process]:
        """The processes of Ray of this title, the oldest first."""
        found = [p for p in psutil.Process(self.process.pid).children(recursive=True) if f"ray::{title}" in title_of(p)]
        return sorted(found, key=lambda process: process.pid)

    def kill(self, title: str) -> float:
        """Kills one process of the title with -9; seconds until there is another in its place."""
        before = {process.pid for process in self.replicas(title)}
        begin = time.monotonic()
        os.kill(min(before), signal.SIGKILL)
        while not {process.pid for process in self.replicas(title)} - before:
            time.sleep(0.05)
        return round(time.monotonic() - begin, 2)

    def told(self, command: str, *arguments: str) -> dict[str, float]:
        """The share of each version, as `msd-ray serve COMMAND` says."""
        line = [*SERVE, command, *arguments, "--address", self.cluster, "--json"]
        said = subprocess.run(line, capture_output=True, text=True, check=True).stdout
        try:
            return {row["name"]: row["weight"] for row in json.loads(said)}
        except ValueError:
            raise AssertionError(f"{command} --json said {said!r}") from None

    def stop(self) -> int | None:
        """The exit code; None where it does not end within `STOPPED` seconds, and is killed."""
        self.process.send_signal(signal.SIGTERM)
        return ended(self.process)


@contextmanager
def served(uri: str, *overrides: str) -> Iterator[Served]:
    """Serves an ensemble until the end of this block."""
    line = [*SERVE, uri, "--port", str(PORT), "--http-port", str(HTTP_PORT), "gateway.access_log=false", *overrides]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield Served(process, next(said.split()[-1] for said in process.stdout if said.startswith("update:")))
    finally:
        if process.poll() is None:
            process.terminate()
            ended(process)


def ended(process: subprocess.Popen[str]) -> int | None:
    try:
        return process.wait(STOPPED)
    except subprocess.TimeoutExpired:
        for each in [*psutil.Process(process.pid).children(recursive=True), process]:
            each.kill()
        process.wait()
        return None


def replicas_of_each(n: int) -> list[str]:
    """So many processes for each student."""
    return ["students.placement=dedicated", *(f"students.{key}_replicas={n}" for key in ("max", "min"))]


def title_of(process: psutil.Process) -> str:
    """Empty once it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def answers_of(uri: str, name: str) -> Answers:
    """What the ensemble makes of each class and SEEDS seeds."""
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
