"""The digits recipe, cut short, as a Ray job on a cluster of real processes on loopback."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]
PROJECT = Path(__file__).parents[2]
SHORT = [
    "teacher.images=640",
    "stages.dm.images=64",
    "stages.adm.images=64",
    "training.checkpoint_every=64",
    "partition.k=2",
    "evaluation.samples=100",
    "evaluation.curve_samples=40",
]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def ray(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("ray")), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=300)


@pytest.fixture
def head(cache: Path, tmp_path: Path) -> Iterator[tuple[str, dict[str, str], psutil.Process]]:
    """Address of the dashboard of a `ray start --head` cluster, the environment for its clients, its raylet."""
    env = os.environ | {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
    }
    port, dashboard = free_port(), free_port()
    before = {p.pid for p in psutil.process_iter()}
    ports = [f"--port={port}", f"--dashboard-port={dashboard}", "--ray-client-server-port=0"]
    ray("start", "--head", "--num-cpus=4", "--node-ip-address=127.0.0.1", *ports, env=env)
    new = [p for p in psutil.process_iter(["name"]) if p.pid not in before]
    raylet = next(p for p in new if p.info["name"] == "raylet")
    yield f"http://127.0.0.1:{dashboard}", env, raylet
    for process in [raylet, *new]:
        if process.is_running():
            process.kill()


def test_a_submitted_job_completes_and_leaves_no_actor(
    head: tuple[str, dict[str, str], psutil.Process], tmp_path: Path
) -> None:
    address, env, raylet = head
    run_dir = tmp_path / "run"
    command = ["python", "-m", "msd_ray", "train", "digits", *SHORT, "--run-dir", str(run_dir)]
    submitted = ray(
        "job", "submit", f"--address={address}", "--working-dir", str(PROJECT / "examples"), "--", *command, env=env
    )
    assert "succeeded" in submitted.stdout
    for name in ("metrics.parquet", "report.html", "samples.png", "ensemble/manifest.json"):
        assert (run_dir / name).stat().st_size > 0
    deadline = time.monotonic() + 30
    while actors := [p for p in raylet.children() if "Actor" in " ".join(p.cmdline())]:
        assert time.monotonic() < deadline, f"left behind: {actors}"
        time.sleep(0.5)
