"""A Ray cluster that stays, on loopback, and jobs that are submitted to it."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

PROJECT = Path(__file__).parents[1]


@dataclass(frozen=True)
class JobCluster:
    """address: of its dashboard. env: for its clients. client: ray://, of its client server."""

    address: str
    env: dict[str, str]
    client: str


@contextmanager
def job_cluster() -> Iterator[JobCluster]:
    token = secrets.token_hex(32)
    env = os.environ | {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "PYTHONPATH": str(PROJECT),
    }
    ports = {name: _free_port() for name in ("", "dashboard-", "dashboard-agent-listen-", "ray-client-server-")}
    given = [f"--{name}port={port}" for name, port in ports.items()]
    command = [_ray(), "start", "--head", "--num-cpus=4", "--node-ip-address=127.0.0.1", *given]
    subprocess.run(command, env=env, capture_output=True, check=True, timeout=120)
    processes = [p for p in psutil.process_iter() if _has(p, token)]
    try:
        client = f"ray://127.0.0.1:{ports['ray-client-server-']}"
        yield JobCluster(f"http://127.0.0.1:{ports['dashboard-']}", env, client)
    finally:
        for process in processes:
            if process.is_running():
                process.kill()


class Job:
    """A command that is submitted to the cluster each time it is started."""

    def __init__(self, cluster: JobCluster, arguments: list[str], folder: Path) -> None:
        self.run_dir, self._cluster = folder / "run", cluster
        self._line = ["env", f"MSD_RAY_CACHE={folder / 'cache'}", sys.executable, "-m", "msd_ray", *arguments]
        self._line += ["--run-dir", str(self.run_dir)]
        self._id = ""

    def start(self) -> None:
        self._id = f"job-{secrets.token_hex(4)}"
        for _ in range(20):  # while the head's job agent is still coming up
            done = self._ask("submit", "--no-wait", "--submission-id", self._id, "--", *self._line)
            if done.returncode == 0:
                return
            time.sleep(3)
        raise RuntimeError(done.stdout + done.stderr)

    @property
    def driver(self) -> psutil.Process | None:
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            if line[1:3] == ["-m", "msd_ray"] and str(self.run_dir) in line:
                return process
        return None

    def ended(self, seconds: float) -> int | None:
        end = time.monotonic() + seconds
        while (code := self._exit_code()) is None and time.monotonic() < end:
            time.sleep(0.5)
        return code

    def said(self) -> str:
        return self._ask("logs", self._id).stdout

    def _exit_code(self) -> int | None:
        info: Any = self._client().get_job_info(self._id)
        return int(info.driver_exit_code) if info.driver_exit_code is not None else None

    def _client(self) -> Any:
        os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", self._cluster.env["RAY_AUTH_TOKEN"]
        from ray.job_submission import JobSubmissionClient

        return JobSubmissionClient(self._cluster.address)

    def _ask(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [_ray(), "job", verb, "--address", self._cluster.address, *arguments]
        return subprocess.run(command, env=self._cluster.env, capture_output=True, text=True, check=False, timeout=300)


def _ray() -> str:
    return str(Path(sys.executable).with_name("ray"))


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _has(process: psutil.Process, token: str) -> bool:
    try:
        return process.environ().get("RAY_AUTH_TOKEN") == token
    except psutil.Error:
        return False
