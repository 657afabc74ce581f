"""The servers of benchmarks/serving.py, each for the length of a block, on loopback and on a port that was free."""

import base64
import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import ray
import requests
from common import say
from serving_load import Ask
from serving_proxy import open_proxy

from msd_ray.cluster.connect import connected
from msd_ray.serving.client.messages import request_of
from msd_ray.serving.generated import ensemble_pb2_grpc as pb_grpc
from msd_ray.serving.serve_apps.serve import serving
from msd_ray.serving.service.config import parse_config

HERE = Path(__file__).parent
Connect = Callable[[], AbstractAsyncContextManager[Ask]]


@contextmanager
def service(uri: str, placement: str, proxy_port: int) -> Iterator[Connect]:
    """Ours, as it is by default but for the access log, which no other has. placement: of the students. proxy_port:
    where Serve's own gRPC proxy listens as well; 0 for not at all."""
    port, http_port = free_port(), free_port()
    gateway = {"port": port, "http_port": http_port, "access_log": False}
    config = parse_config({"gateway": gateway, "students": {"placement": placement}})
    with connected():
        if proxy_port:
            open_proxy(proxy_port, http_port)
        with serving(uri, config, ray.get_runtime_context().gcs_address, say):  # where Serve's ports may be taken
            yield lambda: grpc_asker(port)


@contextmanager
def bare(uri: str, threads: int) -> Iterator[Connect]:
    """A bare grpc.aio server, whose students each compute with so many threads."""
    command = [sys.executable, str(HERE / "serving_bare.py"), uri, str(threads)]
    with _process(command, stdout=subprocess.PIPE) as process:
        port = int(process.stdout.readline() or 0)
        if not port:
            raise SystemExit("serving_bare.py did not start")
        yield lambda: grpc_asker(port)


@contextmanager
def bento(uri: str, python: str) -> Iterator[Connect | None]:
    """BentoML, by a Python that has it; None where that has not."""
    if not has_bentoml(python):
        yield None
        return
    port = free_port()
    command = [python, "-m", "bentoml", "serve", "serving_bento:Generator", "--host", "127.0.0.1", "--port", str(port)]
    with tempfile.TemporaryDirectory() as home:
        own = {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": home, "MSD_RAY_BENCHMARK_ENSEMBLE": uri}
        path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        with _process(command, env={**os.environ, **own, "PYTHONPATH": path}, cwd=HERE) as process:
            _await_ready(f"http://127.0.0.1:{port}/readyz", process)
            yield lambda: http_asker(f"http://127.0.0.1:{port}/generate")


def has_bentoml(python: str) -> bool:
    if python == sys.executable:
        return importlib.util.find_spec("bentoml") is not None
    return subprocess.run([python, "-c", "import bentoml"], capture_output=True).returncode == 0


@asynccontextmanager
async def grpc_asker(port: int, metadata: tuple[tuple[str, str], ...] = ()) -> AsyncIterator[Ask]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        generate = pb_grpc.EnsembleServiceStub(channel).Generate

        async def ask(classes: list[int], seeds: list[int]) -> list[bytes]:
            answer = await generate(request_of(classes, seeds, "png", ""), timeout=600, metadata=metadata)
            return [image.data for image in answer.images]

        yield ask


@asynccontextmanager
async def http_asker(url: str) -> AsyncIterator[Ask]:
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), raise_for_status=True) as session:

        async def ask(classes: list[int], seeds: list[int]) -> list[bytes]:
            pairs = [list(pair) for pair in zip(classes, seeds, strict=True)]
            async with session.post(url, json={"pairs": pairs}) as answer:
                return [base64.b64decode(image) for image in await answer.json()]

        yield ask


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _process(command: list[str], **options: Any) -> Iterator[Any]:
    """Ended with the block: told by the end of its standard input and by SIGTERM."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, **options)
    try:
        yield process
    finally:
        process.stdin.close()  # type: ignore[union-attr]
        process.terminate()
        process.wait(60)


def _await_ready(url: str, process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        try:
            if requests.get(url, timeout=5).ok:
                return
        except (requests.ConnectionError, requests.Timeout):
            time.sleep(0.2)
    raise SystemExit("BentoML did not start")
