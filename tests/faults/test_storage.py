"""Disks that are full, cannot be written to or fail now and then, and drivers that want the same run directory."""

import errno
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from pyarrow import fs

from msd_ray.conditions import Classes, Owned
from msd_ray.data import in_memory
from msd_ray.errors import UserError
from msd_ray.networks import DenoiserSpec, MLPConfig
from msd_ray.runs.lease import NAME, held
from msd_ray.storage import Store
from msd_ray.storage.local_disk import TEMPORARY
from msd_ray.teachers import LocalTeacher
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.config import StageConfig, TrainingConfig
from msd_ray.training.state import State
from msd_ray.training.student_spec import StudentSpec
from msd_ray.training.student_trainer import StudentTrainer

from .conftest import TINY

STAGE = StageConfig("adm", images=96, batch=8, generator_lr=1e-3, fake_lr=1e-3, fake_steps=1, warmup=0)
SPEC = StudentSpec(0, 1, DenoiserSpec(MLPConfig(width=32, blocks=2), (2,), 4), {"adm": STAGE}, TrainingConfig())
OWNED = Owned(Classes.numbered(4), torch.tensor([1, 3]))
SEGMENT = 8
Mount = Callable[[str], Path]


def trainer(state: State | None = None) -> StudentTrainer:
    teacher = LocalTeacher(lambda x, sigma, condition: x / (1 + sigma[:, None] ** 2))
    student = StudentTrainer(SPEC, OWNED, teacher, None, in_memory(torch.ones(4, 2), torch.tensor([1, 3, 1, 3])))
    if state:
        student.load_state_dict(state)
    return student


def train(checkpoints: Checkpoints) -> State:
    """Trains to the end, as a student does that dies after each checkpoint."""
    while not (student := trainer(checkpoints.latest())).done:
        student.advance(SEGMENT)
        checkpoints.save(student.state_dict())
    return student.state_dict()


def same(a: State, b: State) -> bool:
    return a.tensors.keys() == b.tensors.keys() and all(
        torch.equal(value, b.tensors[part][name]) for part in a.tensors for name, value in a.tensors[part].items()
    )


def after(images: int) -> State:
    """What a student is after so many images that nobody disturbed."""
    student = trainer()
    for _ in range(0, images, SEGMENT):
        student.advance(SEGMENT)
    return student.state_dict()


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """mount("size=4m") is an empty disk, mounted where only a process can see it that ends with the test."""
    if not shutil.which("unshare"):
        pytest.skip("mounting a disk for a test needs unshare")
    holders = []

    def mounted(options: str) -> Path:
        script = 'mount -t tmpfs -o "$0" tmpfs "$1" && echo mounted && exec sleep 600'
        command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, options, str(tmp_path)]
        holder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        holders.append(holder)
        assert holder.stdout and holder.stderr
        if holder.stdout.readline() != "mounted\n":
            pytest.skip(f"this system does not let a test mount a disk: {holder.stderr.read().strip()}")
        return Path(f"/proc/{holder.pid}/root{tmp_path}")

    yield mounted
    for holder in holders:
        holder.kill()
        holder.communicate()


@pytest.fixture
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)


@pytest.mark.parametrize("room", [1.1, 1.3, 1.5, 1.7, 1.9, 1.99])
def test_a_full_disk_loses_no_checkpoint_and_training_goes_on_once_there_is_room(
    room: float, mount: Mount, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    Checkpoints(Store(str(elsewhere)), 1).save(after(SEGMENT))
    size = sum(-path.stat().st_size // 4096 * -4096 for path in elsewhere.rglob("*") if path.is_file())
    disk = mount("size=4m")
    (disk / "others").write_bytes(bytes(4 * 2**20 - int(room * size) // 4096 * 4096))
    checkpoints = Checkpoints(Store(str(disk)), keep=100)

    with pytest.raises(UserError) as told:
        train(checkpoints)
    where = rf"^cannot write {disk}/ckpt-0*{2 * SEGMENT}/\S+: "
    assert told.match(where + "No space left on device; free some space and run the same command again")
    assert "\n" not in str(told.value)
    kept = checkpoints.latest()
    assert kept and kept.meta["nimg"] == SEGMENT and same(kept, after(SEGMENT))
    assert list(disk.rglob(f"{TEMPORARY}*")) == []
    assert [path.name for path in disk.rglob("*") if path.is_file() and f"{SEGMENT:012d}" not in str(path)] == [
        "others"
    ]

    (disk / "others").unlink()
    assert same(train(Checkpoints(Store(str(disk)), keep=2)), after(SPEC.images))


def fill(disk: Path, name: str) -> None:
    with suppress(OSError), open(disk / name, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_full_disk_takes_no_lease_away_and_gives_none(mount: Mount) -> None:
    disk = mount("size=1m")
    with held(Store(str(disk))) as lease:
        fill(disk, "others")
        lease.check()
    fill(disk, "more")
    with pytest.raises(UserError, match=f"cannot write {disk}/{NAME}: No space left on device; free some space"):
        lease.take()
    assert {path.name for path in disk.iterdir()} == {"others", "more"}


class FailsNowAndThen:
    """Does what `do` does, but every time whose number `fails` says so it fails as a disk or network does."""

    def __init__(self, do: Callable[..., Any], error: OSError, fails: Callable[[int], bool]) -> None:
        self.do, self.error, self.fails, self.calls, self.failures = do, error, fails, 0, 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        if self.fails(self.calls):
            self.failures += 1
            raise self.error
        return self.do(*arguments, **named)


def disk_that_fails(fails: Callable[[int], bool], monkeypatch: pytest.MonkeyPatch) -> FailsNowAndThen:
    flaky = FailsNowAndThen(os.fsync, OSError(errno.EIO, "Input/output error"), fails)
    monkeypatch.setattr(os, "fsync", flaky)
    return flaky


def object_store_that_fails(fails: Callable[[int], bool]) -> tuple[Store, FailsNowAndThen]:
    handler = fs.FSSpecHandler(fsspec.filesystem("memory", skip_instance_cache=True))
    error = OSError("AWS Error SLOW_DOWN during PutObject operation: Please reduce your request rate.")
    handler.open_output_stream = FailsNowAndThen(handler.open_output_stream, error, fails)
    return Store(f"{uuid.uuid4().hex}/student", fs.PyFileSystem(handler)), handler.open_output_stream


def every_tenth(number: int) -> bool:
    return number % 10 == 0


@pytest.mark.usefixtures("_no_waits")
def test_a_disk_that_fails_every_tenth_write_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flaky = disk_that_fails(every_tenth, monkeypatch)
    assert same(train(Checkpoints(Store(str(tmp_path)), keep=2)), after(SPEC.images))
    assert flaky.failures > 10
    assert list(tmp_path.rglob(f"{TEMPORARY}*")) == []


@pytest.mark.usefixtures("_no_waits")
def test_a_lease_whose_writing_is_tried_again_is_not_in_its_own_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaky = disk_that_fails(lambda number: number == 1, monkeypatch)
    with held(Store(str(tmp_path))) as lease:
        assert flaky.failures == 1 and flaky.calls == 2
        lease.check()


@pytest.mark.usefixtures("_no_waits")
def test_an_object_store_that_fails_every_tenth_write_changes_nothing() -> None:
    store, flaky = object_store_that_fails(every_tenth)
    assert same(train(Checkpoints(store, keep=2)), after(SPEC.images))
    assert flaky.failures > 5


@pytest.mark.usefixtures("_no_waits")
@pytest.mark.parametrize("place", ["disk", "object store"])
def test_a_storage_that_fails_four_of_five_times_is_given_up_and_the_checkpoint_before_is_whole(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = False

    def four_of_five(number: int) -> bool:
        return broken and number % 5 != 0

    if place == "disk":
        store, flaky = Store(str(tmp_path)), disk_that_fails(four_of_five, monkeypatch)
    else:
        store, flaky = object_store_that_fails(four_of_five)
    checkpoints, student = Checkpoints(store, keep=1), trainer()
    student.advance(SEGMENT)
    checkpoints.save(student.state_dict())

    broken, flaky.calls = True, 0
    student.advance(SEGMENT)
    why = "Input/output error" if place == "disk" else r"AWS Error SLOW_DOWN .* rate"
    with pytest.raises(UserError, match=rf"^cannot \w+ .*: {why}; tried 4 times; run the same command again"):
        checkpoints.save(student.state_dict())
    kept = checkpoints.latest()
    assert kept and kept.meta["nimg"] == SEGMENT and same(kept, after(SEGMENT))

    broken = False
    assert same(train(checkpoints), after(SPEC.images))


def msd_ray_train(run_dir: Path) -> "subprocess.CompletedProcess[str]":
    command = ["train", TINY, "partition.kind=sequential", "--run-dir", str(run_dir)]
    return subprocess.run(
        [sys.executable, "-m", "msd_ray", *command], capture_output=True, text=True, check=False, timeout=240
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "why"),
    [("write {}/write-test", "Read-only file system"), ("list {}/students/0000", "Not a directory")],
)
def test_a_run_directory_that_cannot_be_written_to_is_told_in_one_line(what: str, why: str, mount: Mount) -> None:
    if why == "Not a directory":
        run_dir = mount("size=1m") / "file"
        run_dir.write_text("")
    else:
        run_dir = mount("size=1m,ro")
    done = msd_ray_train(run_dir)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: cannot {what.format(run_dir)}: {why}; ")


@pytest.mark.slow
def test_a_second_driver_of_a_run_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    with held(Store(str(tmp_path))) as lease:
        done = msd_ray_train(tmp_path)
        lease.check()
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path} is being trained by ") and f" process {os.getpid()} " in line
    assert list(tmp_path.iterdir()) == []
