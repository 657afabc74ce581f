"""The tiny recipe as a Ray job on a cluster of processes on loopback: killed, and submitted again."""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from .conftest import FEW, TINY

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]
PROJECT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def ray(*arguments: str, env: dict[str, str], check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("ray")), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=check, timeout=300)


@pytest.fixture
def head(cache: Path) -> Iterator[tuple[str, dict[str, str], psutil.Process]]:
    """Address of the dashboard of a `ray start --head` cluster, the environment for its clients, its raylet."""
    env = os.environ | {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
    }
    dashboard = free_port()
    ports = {"": free_port(), "dashboard-": dashboard, "dashboard-agent-listen-": free_port()}
    ports["ray-client-server-"] = free_port()
    given = [f"--{name}port={port}" for name, port in ports.items()]
    ray("start", "--head", "--num-cpus=2", "--node-ip-address=127.0.0.1", *given, env=env)
    new = [p for p in psutil.process_iter(["name"]) if _token(p) == env["RAY_AUTH_TOKEN"]]
    yield f"http://127.0.0.1:{dashboard}", env, next(p for p in new if p.info["name"] == "raylet")
    for process in new:
        if process.is_running():
            process.kill()


def _token(process: psutil.Process) -> str:
    """Which tells the processes of this cluster from all others."""
    try:
        return process.environ().get("RAY_AUTH_TOKEN", "")
    except psutil.Error:
        return ""


def submitted(address: str, command: list[str], env: dict[str, str], *options: str) -> str:
    """What `ray job submit` prints; tried again while the head's job agent is still coming up."""
    options = (*options, f"--address={address}", "--working-dir", str(PROJECT / "examples"))
    for _ in range(20):
        done = ray("job", "submit", *options, "--", *command, env=env, check=False)
        if "No available agent" not in done.stdout + done.stderr:
            break
        time.sleep(3)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def kill_once_a_student_trains(run_dir: Path) -> None:
    """Kills -9 the driver that the run's status names."""
    while not list(run_dir.glob("students/*/ckpt-*/manifest.json")):
        time.sleep(0.05)
    _, pid = json.loads((run_dir / "status.json").read_text())["driver"].rsplit(":", 1)
    os.kill(int(pid), signal.SIGKILL)


def test_a_job_that_is_killed_and_submitted_again_completes_and_leaves_no_actor(
    head: tuple[str, dict[str, str], psutil.Process], tmp_path: Path
) -> None:
    address, env, raylet = head
    run_dir = tmp_path / "run"
    command = ["python", "-m", "msd_ray", "train", TINY, FEW, "--run-dir", str(run_dir)]
    submitted(address, command, env, "--no-wait")
    kill_once_a_student_trains(run_dir)
    assert not (run_dir / "ensemble").exists()
    assert "succeeded" in submitted(address, command, env)
    for name in ("metrics.parquet", "report.html", "samples.png", "ensemble/manifest.json"):
        assert (run_dir / name).stat().st_size > 0
    deadline = time.monotonic() + 30
    while actors := [p for p in raylet.children() if re.search("::(Slot|Teacher|JobSup)", " ".join(p.cmdline()))]:
        assert time.monotonic() < deadline, f"left behind: {actors}"
        time.sleep(0.5)
