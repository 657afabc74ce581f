"""The whole service as a user starts it: `msd-ray serve` in a process of its own, here on the tests' Ray cluster."""

import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests

from msd_ray.ensemble import Ensemble
from msd_ray.serving.client import Client, Connection, GeneratedImage, Retry

from .certificates import certificates
from .ensembles import PICTURES, saved

TOKEN = "secret"
PAUSE = 0.05
"""Seconds between two requests of a thread that makes load."""
BODY = {"conditions": [3], "seeds": [7]}


@dataclass
class Site:
    """process: of `msd-ray serve`. cluster: address of Ray. uri: of the ensemble served at first."""

    process: subprocess.Popen[str]
    where: Connection
    url: str
    cluster: str
    uri: str

    def http(self, path: str, body: Any = None, more: dict[str, str] | None = None) -> requests.Response:
        """POST where there is a body, GET otherwise. more: headers."""
        headers = {"authorization": f"Bearer {TOKEN}", **(more or {})}
        method = "GET" if body is None else "POST"
        return requests.request(method, self.url + path, json=body, headers=headers, verify=self.where.ca, timeout=60)

    def told(self, command: str, *arguments: str) -> dict[str, float]:
        """What `msd-ray serve COMMAND --json` says from another process: the share of each version."""
        line = [*SERVE, command, *arguments, "--address", self.cluster, "--json"]
        env = {key: value for key, value in os.environ.items() if key not in INHERITED}  # as in another terminal
        done = subprocess.run(line, capture_output=True, text=True, timeout=200, check=True, env=env)
        return {row["name"]: row["weight"] for row in json.loads(done.stdout)}


INHERITED = ("RAY_AUTH_MODE", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")  # which Ray and the tests set here
SERVE = [sys.executable, "-m", "msd_ray", "serve"]


@contextmanager
def started(folder: Path, cluster: str, uri: str = "", *overrides: str) -> Iterator[Site]:
    """Serves an ensemble, by default two students of tiny pictures, with certificates, a token and traces."""
    uri, files, ports = uri or saved(folder / "first", 2, spec=PICTURES), certificates(folder / "tls"), free_ports()
    (folder / "tokens").write_text(TOKEN)
    options = {
        "--port": str(ports[0]),
        "--http-port": str(ports[1]),
        "--tls-cert": files.server_cert,
        "--tls-key": files.server_key,
        "--tokens": str(folder / "tokens"),
        "--address": cluster,
    }
    more = ["students.placement=dedicated", "traces.exporter=spans_to_a_file:processors", "traces.share=0"]
    line = [*SERVE, uri, *more, *overrides, *(word for pair in options.items() for word in pair)]
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "ALL_PROXY"), "http://127.0.0.1:9")  # nobody is there
    with (folder / "stderr").open("w") as err:
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=err, text=True, env={**os.environ, **proxies})
    try:
        assert process.stdout
        while not (said := process.stdout.readline()).startswith("update:"):
            assert said, (folder / "stderr").read_text()[-3000:]
        where = Connection(f"127.0.0.1:{ports[0]}", token=TOKEN, ca=files.ca)
        yield Site(process, where, f"https://127.0.0.1:{ports[1]}", cluster, uri)
    finally:
        process.terminate()
        process.wait(60)


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


@dataclass
class Load:
    """Threads that ask again and again, each until it is told to stop or, where `brittle`, until an error. Between two
    requests they leave the processor to whoever starts meanwhile."""

    where: Connection
    retry: Retry = field(default_factory=Retry)
    brittle: bool = False
    threads: int = 2
    made: list[GeneratedImage] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._stop = threading.Event()
        self._running = [threading.Thread(target=self._ask, args=(i,)) for i in range(self.threads)]
        for thread in self._running:
            thread.start()
        return self

    def __exit__(self, *of_an_error: Any) -> None:
        self._stop.set()
        self.wait()

    def wait(self) -> None:
        for thread in self._running:
            thread.join()

    def _ask(self, number: int) -> None:
        rng = random.Random(number)
        with Client(self.where, seconds=120, retry=self.retry) as client:
            while not (self._stop.is_set() or (self.brittle and self.errors)):
                classes, seeds = [rng.randrange(10) for _ in range(3)], [rng.randrange(1000) for _ in range(3)]
                try:
                    self.made += client.generate(classes, seeds, "float32")
                except Exception as error:
                    self.errors.append(error)
                time.sleep(PAUSE)

    def more(self, images: int) -> list[GeneratedImage]:
        """The next so many images to come back, and what comes with them."""
        begin = len(self.made)
        assert eventually(lambda: len(self.made) >= begin + images), f"{len(self.made) - begin}; {self.errors}"
        return self.made[begin:]


def assert_right(made: list[GeneratedImage], uris: dict[str, str], most: int = 60) -> None:
    """Each image is, bit for bit, what the ensemble makes that it names as its version. uris: of each version."""
    ensembles = {name: Ensemble.load(uri) for name, uri in uris.items()}
    for image in random.Random(0).sample(made, min(most, len(made))):
        right = ensembles[image.version].generate([image.class_id], [image.seed])[0]
        assert image.data == right.numpy().tobytes()


def eventually(holds: Callable[[], object]) -> bool:
    """Whether it comes to hold, within a time that is plenty."""
    for _ in range(1200):
        if holds():
            return True
        time.sleep(0.1)
    return False


def replicas(name: str) -> list[psutil.Process]:
    """The processes of the tests' own Ray cluster that have this in their titles."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if f"ray::{name}" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found
