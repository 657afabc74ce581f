"""One driver at a time: the lease of a run directory."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from msd_ray.errors import TrainingError, UserError
from msd_ray.runs import lease as module
from msd_ray.runs.lease import DURATION, NAME, SKEW, Lease, held
from msd_ray.runs.process import Process
from msd_ray.storage import Store

HOLDER = """
import sys, time
from msd_ray.runs.lease import held
from msd_ray.storage import Store
with held(Store(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""

# Each of two takes the lease when told to, says whether it got it, and gives it back when told again. A slow clock
# leaves time between reading the old lease and writing the new one, for the other to come in between.
RACER = """
import sys, time
from msd_ray.errors import UserError
from msd_ray.runs.lease import Lease
from msd_ray.storage import Store
for line in sys.stdin:
    lease = Lease(Store(line.strip()), lambda: time.sleep(0.02) or time.time())
    try:
        lease.take()
        print("held", flush=True)
    except UserError as error:
        print(error, flush=True)
    sys.stdin.readline()
    lease.release()
    print("released", flush=True)
"""


class Clock:
    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["local", "object store"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(module, "SETTLING", 0.01)
    return Store(str(tmp_path / "run")) if request.param == "local" else Store("bucket/run", fs._MockFileSystem())


@pytest.fixture
def clock() -> Clock:
    return Clock()


def python(script: str, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def tell(process: "subprocess.Popen[str]", line: str = "") -> None:
    assert process.stdin
    process.stdin.write(line + "\n")
    process.stdin.flush()


def rewrite(store: Store, **changes: Any) -> None:
    """Changes what the lease in `store` says of its owner."""
    claim = json.loads(store.read(NAME))
    claim["owner"] |= changes
    store.write(NAME, json.dumps(claim).encode())


def test_a_second_driver_is_refused_in_one_line_until_the_first_has_ended(store: Store, clock: Clock) -> None:
    with held(store, clock):
        clock.now += 5
        with pytest.raises(UserError) as told, held(store, clock):
            pass
        owner = Process.this()
        expected = f"{store.uri} is being trained by {owner.host}, process {owner.pid} (its lease ends in 50 s unless "
        assert str(told.value) == expected + "it renews); wait for it, or give another --run-dir"
    assert store.names() == []
    with held(store, clock) as lease:
        lease.check()


def test_it_is_given_back_when_training_fails(store: Store) -> None:
    with pytest.raises(TrainingError, match="a student"), held(store):
        raise TrainingError("a student failed")
    assert store.names() == []


@pytest.fixture
def racers() -> Iterator[list["subprocess.Popen[str]"]]:
    two = [python(RACER), python(RACER)]
    yield two
    for racer in two:
        racer.kill()
        racer.communicate()


@pytest.mark.parametrize("left_behind", ["nothing", "expired"])
def test_of_two_processes_that_race_exactly_one_gets_it(
    left_behind: str, racers: list["subprocess.Popen[str]"], tmp_path: Path
) -> None:
    for i in range(50):
        uri = str(tmp_path / str(i))
        if left_behind == "expired":
            Lease(Store(uri), lambda: 1e9).take()
            rewrite(Store(uri), host="elsewhere", world="another")
        for racer in racers:
            tell(racer, uri)
        answers = [said(racer) for racer in racers]
        assert answers.count("held") == 1
        assert sum("is being trained by" in answer for answer in answers) == 1
        for racer in racers:
            tell(racer)
            assert said(racer) == "released"
        assert Store(uri).names() == []


def test_on_storage_without_locks_the_last_of_two_writers_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both read that there is none before either writes."""
    store, second = Store("bucket/run", fs._MockFileSystem()), []

    def meanwhile(_: float) -> None:  # the first waits for others to finish their writing; here they do
        monkeypatch.setattr(module.time, "sleep", lambda _: None)
        store.delete(NAME)
        second.append(Lease(store))
        second[0].take()

    monkeypatch.setattr(module.time, "sleep", meanwhile)
    with pytest.raises(UserError, match="is being trained by"):
        Lease(store).take()
    second[0].check()


def test_after_kill_9_the_same_command_goes_on_at_once(tmp_path: Path) -> None:
    holder, store = python(HOLDER, str(tmp_path)), Store(str(tmp_path))
    try:
        assert said(holder) == "held"
        with pytest.raises(UserError, match=f"process {holder.pid} "):
            Lease(store).take()
        holder.send_signal(signal.SIGKILL)
        while "Z" not in Path(f"/proc/{holder.pid}/stat").read_text().rpartition(")")[2]:
            time.sleep(0.01)
        Lease(store).take()  # dead, but not yet waited for by its parent
        rewrite(store, **Process.this().model_dump() | {"pid": holder.pid})
        holder.wait()
        Lease(store).take()  # and when its pid is free again
    finally:
        holder.kill()
        holder.communicate()


def test_a_pid_that_is_used_again_is_not_the_owner(store: Store) -> None:
    Lease(store).take()
    rewrite(store, started="1")
    Lease(store).take()


@pytest.mark.parametrize("elsewhere", [{"world": "another boot or container"}, {"world": ""}, {"started": ""}])
def test_nobody_is_thought_dead_who_cannot_be_seen_from_here(
    store: Store, clock: Clock, elsewhere: dict[str, str]
) -> None:
    Lease(store, clock).take()
    rewrite(store, pid=2**31 - 1, **elsewhere)
    with pytest.raises(UserError, match="is being trained by"):
        Lease(store, clock).take()


def test_an_expired_lease_is_taken_over_and_its_owner_told(store: Store, clock: Clock) -> None:
    first, second = Lease(store, clock), Lease(store, clock)
    first.take()
    clock.now += DURATION + SKEW - 0.5  # expired, but the owner's clock may be behind ours
    with pytest.raises(UserError, match="ends in 1 s"):
        second.take()
    clock.now += 0.5
    second.take()
    with pytest.raises(TrainingError, match=f"process {os.getpid()} has taken over .* this process ends"):
        first.check()
    assert first.lost
    second.check()
    first.release()  # which must not remove what is not its own
    second.check()


def test_a_host_that_slept_asks_before_it_goes_on(store: Store, clock: Clock) -> None:
    slept = Lease(store, clock)
    slept.take()
    slept.refuse_if_lost()
    clock.now += DURATION + SKEW + 1
    slept.refuse_if_lost()  # nobody wanted it: it is renewed
    with pytest.raises(UserError, match="being trained"):
        Lease(store, clock).take()
    clock.now += DURATION + SKEW + 1
    Lease(store, clock).take()
    for _ in range(2):
        with pytest.raises(TrainingError, match="has taken over"):
            slept.refuse_if_lost()
    assert slept.lost


def test_a_renewed_lease_does_not_expire(store: Store, clock: Clock) -> None:
    first = Lease(store, clock)
    first.take()
    for _ in range(4):
        clock.now += DURATION - 1
        first.check()
    clock.now += DURATION - 1
    with pytest.raises(UserError, match="being trained"):
        Lease(store, clock).take()


def test_a_thread_renews_it(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENEWAL", 0.01)
    with held(store, clock) as lease:
        clock.now += DURATION
        while json.loads(store.read(NAME))["expires"] < clock.now + DURATION:
            time.sleep(0.01)
        store.delete(NAME)
        while not lease.lost:
            time.sleep(0.01)
        with pytest.raises(TrainingError, match=r"somebody removed lease\.json from"):
            lease.refuse_if_lost()
    assert store.names() == []
    assert "lease" not in {thread.name for thread in threading.enumerate()}


def test_the_thread_outlives_a_storage_that_fails_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RENEWAL", 0.01)
    update, failing = Store.update, threading.Event()

    def now_and_then(self: Store, name: str, change: Any) -> bool:
        if failing.is_set():
            raise UserError("cannot write: out of order")
        return update(self, name, change)

    monkeypatch.setattr(Store, "update", now_and_then)
    clock, store = Clock(), Store(str(tmp_path))
    with held(store, clock) as lease:
        failing.set()
        while "out of order" not in caplog.text:
            time.sleep(0.01)
        failing.clear()
        clock.now += DURATION
        while json.loads(store.read(NAME) or b'{"expires": 0}')["expires"] < clock.now + DURATION:
            time.sleep(0.01)
        assert not lease.lost


DAMAGE = [b"\xff", b"{}", b'{"id": "a", "owner": {"pid": -1}, "expires": 1}', b"null", b"[" * 9**5]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_lease_counts_as_expired(store: Store, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    store.write(NAME, damage)
    with caplog.at_level(logging.WARNING), held(store) as lease:
        assert "lease.json is damaged; it counts as expired" in caplog.text
        store.write(NAME, damage)
        lease.check()  # its owner mends it
        with pytest.raises(UserError, match="being trained"):
            Lease(store).take()
