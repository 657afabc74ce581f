"""The local cluster of one command: where it puts its files, who can connect to it, and what is left of it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from msd_ray.cluster import local_cluster as local
from msd_ray.errors import UserError

START = """
import sys, time
from msd_ray.stopping import STOP
STOP.listen()
from msd_ray.cluster.connect import connected, listen_on_loopback
listen_on_loopback(None)
with connected(dashboard="wait" in sys.argv):
    import ray
    ray.get(ray.remote(lambda: None).remote())
    print(ray._private.worker._global_node.get_temp_dir_path(), flush=True)
    if "wait" in sys.argv:
        time.sleep(600)
"""


def start(*arguments: str, tmpdir: str = "") -> "subprocess.Popen[str]":
    env = os.environ | ({"TMPDIR": tmpdir, "RAY_TMPDIR": tmpdir} if tmpdir else {})
    return subprocess.Popen([sys.executable, "-c", START, *arguments], stdout=subprocess.PIPE, text=True, env=env)


def folder_of(process: "subprocess.Popen[str]") -> Path:
    assert process.stdout
    return Path(process.stdout.readline().strip()).parent


def blocks(pid: int, number: int) -> bool:
    mask = Path(f"/proc/{pid}/status").read_text().partition("SigBlk:")[2].split()[0]
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_nothing_is_left_of_a_command_whether_it_is_killed_or_ends_well(tmp_path: Path) -> None:
    """The two run side by side; the one that ends well was told to put its folder where Ray's sockets cannot be."""
    killed, well = start("wait"), start(tmpdir=str(tmp_path / ("long" * 25)))
    kill(killed)
    folder = folder_of(well)
    assert well.wait(60) == 0
    assert folder.parent == Path("/tmp")
    assert not folder.exists()


def kill(process: "subprocess.Popen[str]") -> None:
    """Kills -9 the command; all that it started must end."""
    folder = folder_of(process)
    left = psutil.Process(process.pid).children(recursive=True)
    titles = " ".join(" ".join(p.cmdline()) for p in left)
    for name in ("raylet", "gcs_server", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::IDLE", "dashboard.py"):
        assert name in titles
    assert folder.exists()
    deaf = [p.cmdline() for p in left if blocks(p.pid, signal.SIGTERM) and "cleanup.py" not in " ".join(p.cmdline())]
    assert deaf == []  # though the command itself blocks it, and whoever it starts begins as it is
    process.kill()
    process.wait()
    assert not psutil.wait_procs(left, timeout=60)[1]
    assert not folder.exists()


def test_the_first_short_place_that_can_be_written_to_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def place() -> str:
        folder = Path(local._short_folder())
        folder.rmdir()
        return str(folder.parent)

    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + 100 * "x")
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    assert place() == "/var/tmp"
    monkeypatch.setenv("TMPDIR", "/proc")
    assert place() == "/tmp"
    monkeypatch.setattr(local, "LONGEST", 3)
    with pytest.raises(UserError, match=r"at most 3 bytes, and neither RAY_TMPDIR nor TMPDIR nor /tmp is one"):
        place()


def test_a_cluster_that_others_could_connect_to_is_refused() -> None:
    with socket.socket() as safe:
        safe.bind(("127.0.0.1", 0))
        safe.listen()
        local._refuse_if_others_can_connect()
        with socket.socket() as open_to_all:
            open_to_all.bind(("0.0.0.0", 0))
            open_to_all.listen()
            port = open_to_all.getsockname()[1]
            with pytest.raises(
                UserError, match=rf"did not stay on 127\.0\.0\.1, so it was ended: .* at 0\.0\.0\.0:{port} "
            ):
                local._refuse_if_others_can_connect()


def test_only_rays_processes_are_ended(tmp_path: Path) -> None:
    """Whoever reads a log of Ray's meanwhile is not one."""
    log = tmp_path / "raylet.out"
    log.touch()
    reader = subprocess.Popen(["tail", "-f", str(log)], stdout=subprocess.DEVNULL)
    writer = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdout=log.open("w"))
    command = [sys.executable, "-I", "-S", local.cleanup.__file__, str(tmp_path)]
    try:
        time.sleep(0.2)
        subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=60)
        assert writer.wait(10) == -signal.SIGKILL
        assert reader.poll() is None
        assert not tmp_path.exists()
    finally:
        reader.kill()
        writer.kill()
