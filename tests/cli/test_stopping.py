"""SIGTERM and Ctrl-C: what a process that is told to end does, and when."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from msd_ray.errors import Stopped
from msd_ray.stopping import Stop

TINY = str(Path(__file__).parents[1] / "faults" / "tiny.yaml")
COMMAND = [sys.executable, "-m", "msd_ray"]
PLAN = [*COMMAND, "plan", TINY, "partition.kind=sequential", "cluster.cpus_per_student=0.5"]


class Ending:
    """Takes the place of os._exit."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.ended = threading.Event()

    def __call__(self, code: int) -> None:
        self.codes.append(code)
        self.ended.set()


def test_outside_of_all_blocks_it_ends_at_once_after_its_last_words(capfd: pytest.CaptureFixture[str]) -> None:
    end, done = Ending(), list[str]()
    stop = Stop(end)
    with stop.before_the_end(lambda: done.append("first")), stop.before_the_end(lambda: done.append("second")):
        stop.hear(signal.SIGTERM)
        assert end.ended.wait(10)
    assert (end.codes, done) == ([143], ["second", "first"])
    assert capfd.readouterr().err == "stopped\n"


def test_last_words_that_fail_or_hang_hold_nothing_up() -> None:
    end, hangs, done = Ending(), threading.Event(), list[str]()
    stop = Stop(end)

    def fails() -> None:
        done.append("fails")
        raise OSError("no space")

    with stop.before_the_end(hangs.wait), stop.before_the_end(fails):  # type: ignore[arg-type]
        stop.hear(signal.SIGINT)
        assert end.ended.wait(10)
    hangs.set()
    assert (end.codes, done) == ([130], ["fails"])


def test_a_block_that_ends_in_order_is_left_to_do_so() -> None:
    end = Ending()
    stop = Stop(end)
    stop.check()
    with stop.in_order(seconds=None):
        stop.hear(signal.SIGTERM)
        stop.wait()
        with pytest.raises(Stopped, match=r"^stopped$") as caught:
            stop.check()
    assert (end.codes, caught.value.exit_code) == ([], 143)
    stop.resumable = True
    assert str(stop.stopped()) == "stopped; the same command goes on from the last checkpoint"


def test_the_second_time_it_ends_at_once_whatever_it_does() -> None:
    end = Ending()
    stop = Stop(end)
    with stop.in_order(seconds=None):
        stop.hear(signal.SIGTERM)
        stop.hear(signal.SIGINT)
    assert end.codes == [130]


def test_a_block_that_takes_too_long_is_not_waited_for() -> None:
    end = Ending()
    stop = Stop(end)
    with stop.in_order(seconds=0.01):
        stop.hear(signal.SIGTERM)
        assert end.ended.wait(10)
    assert end.codes == [143]


@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.2, 0.3, 0.5, 1.0])
def test_ctrl_c_is_never_lost_whatever_is_being_imported(seconds: float) -> None:
    process = subprocess.Popen(PLAN, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    soon(lambda: listens(process.pid))
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)
    if process.returncode != 0:  # a machine may be fast enough to be through
        assert (process.returncode, said[1]) == (130, "stopped\n")


def test_it_is_ignored_where_whoever_started_the_command_wants_it_so() -> None:
    command = f"trap '' INT; {' '.join(COMMAND)} --version & sleep 0.5; kill -INT $!; wait $!"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[0]) == (0, "msd-ray")


def test_a_plan_that_is_killed_leaves_neither_processes_nor_folders(tmp_path: Path) -> None:
    plan = subprocess.Popen(PLAN, stderr=subprocess.DEVNULL, env=os.environ | {"TMPDIR": str(tmp_path)})
    soon(lambda: list(tmp_path.glob("tmp*/*")))  # the trial of a worker
    workers = psutil.Process(plan.pid).children(recursive=True)
    assert len(workers) >= 2
    plan.kill()
    plan.wait()
    assert not psutil.wait_procs(workers, timeout=30)[1]
    soon(lambda: not list(tmp_path.glob("tmp*")))


def listens(pid: int) -> bool:
    """Whether it has come so far; what Python does before cannot be changed from within."""
    blocked = Path(f"/proc/{pid}/status").read_text().partition("SigBlk:")[2].split()[0]
    return bool(int(blocked, 16) >> (signal.SIGINT - 1) & 1)


def soon(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
