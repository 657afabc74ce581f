"""A pool whose queues are full, whose replicas die, and that has more to do than it can."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest
import torch

from msd_ray.errors import TrainingError
from msd_ray.recipes import PoolConfig

from .conftest import SPEC, PoolOf, Start, client_of, metrics_of, question, shaken

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def test_a_full_queue_delays_but_loses_nothing(start: Start) -> None:
    pool = start(shaken(SPEC), max_queue=1)
    student = client_of(pool, max_queue=1)
    expected = student(*question())
    for answer in [student.submit(*question()) for _ in range(8)]:
        assert torch.equal(answer.result(), expected)
    (read,) = metrics_of(pool)
    assert read.refused > 0
    assert read.requests == student.requests == 9


def test_a_queue_that_stays_full_is_an_error_that_names_it(start: Start) -> None:
    pool = start(shaken(SPEC), max_queue=1, deterministic=False, max_wait_ms=60_000.0)
    student = client_of(pool, retry_seconds=0.2)
    student.submit(*question(1))  # which waits for company long enough
    until(lambda: metrics_of(pool)[0].waiting == 1)  # an actor need not take requests in order
    with pytest.raises(TrainingError, match=r"queues are full.*max_replicas"):
        student(*question(1))


def test_longer_queues_are_measured_as_longer_delays(start: Start) -> None:
    pool = start(shaken(SPEC))
    student = client_of(pool)
    for _ in range(9):
        student(*question(32))
    (single,) = metrics_of(pool)
    for answer in [student.submit(*question(32)) for _ in range(32)]:
        answer.result()
    (many,) = metrics_of(pool)
    assert many.queue_p50_ms > single.queue_p50_ms
    assert many.queue_p99_ms >= many.queue_p50_ms
    assert 0 < many.utilisation <= 1
    assert many.requests == student.requests == 41
    assert many.cpu_seconds == pytest.approx(student.cpu_seconds)
    assert student.wait_seconds > 0


@pytest.mark.timeout(120)
def test_a_killed_replica_is_replaced_and_its_request_answered(pool_of: PoolOf) -> None:
    pool = pool_of(shaken(SPEC), SPEC)
    expected = pool(*question())
    for _ in range(2):
        before = {p.pid for p in teacher_processes()}
        assert before
        answer = pool.submit(*question())
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        assert torch.equal(answer.result(), expected)
        until(lambda before=before: {p.pid for p in teacher_processes()} - before)


@pytest.mark.timeout(120)
def test_where_one_replica_of_several_dies_no_request_is_lost(pool_of: PoolOf) -> None:
    pool = pool_of(shaken(SPEC), size=2, placement="spread")
    expected = pool(*question())
    answers = [pool.submit(*question()) for _ in range(20)]
    os.kill(teacher_processes()[0].pid, signal.SIGKILL)
    answers += [pool.submit(*question()) for _ in range(20)]
    for answer in answers:
        assert torch.equal(answer.result(), expected)


@pytest.mark.timeout(120)
def test_a_replica_that_errs_is_replaced_and_its_request_answered(
    pool_of: PoolOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    import troubled

    monkeypatch.setattr("msd_ray.cluster.pool.pool.TeacherActor", troubled.TeacherActor)
    pool = pool_of(shaken(SPEC))
    expected = pool(*question())
    (first,) = teacher_processes()
    for _ in range(troubled.TeacherActor.ANSWERS + 10):
        assert torch.equal(pool(*question()), expected)
    assert first.pid not in {p.pid for p in teacher_processes()}


@pytest.mark.nightly
@pytest.mark.timeout(120)
def test_a_stopped_replica_is_avoided_then_ended_and_started_anew(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("msd_ray.cluster.pool.client._SLOW", 2.0)
    pool = start(shaken(SPEC), size=2, silence_seconds=6.0)
    ticking(pool, lambda: len(pool.metrics()) == 2)
    student = client_of(pool)
    expected = student(*question())
    stopped = teacher_processes()[0]
    stopped.suspend()
    for _ in range(4):
        assert torch.equal(student(*question()), expected)
    ticking(pool, lambda: not stopped.is_running())
    ticking(pool, lambda: len(pool.metrics()) == 2)


@pytest.mark.timeout(120)
def test_where_no_replica_is_left_there_is_one_clear_error(start: Start) -> None:
    pool = start(shaken(SPEC), size=2)
    student = client_of(pool, retry_seconds=1.0)
    student(*question())
    pool.stop()
    with pytest.raises(TrainingError, match=r"no teacher replica answered for 1 s \(ActorDiedError\)") as caught:
        student(*question())
    assert "\n" not in str(caught.value)


@pytest.mark.timeout(120)
def test_an_asker_that_dies_leaves_nothing_in_the_queue(start: Start) -> None:
    import ray

    pool = start(shaken(SPEC))
    student = client_of(pool)
    expected = student(*question())

    class Asker:
        def ask(self, replicas: list[Any], question: Any) -> int:
            from msd_ray.cluster.pool.client import TeacherPool

            client = TeacherPool(PoolConfig())
            client.use(replicas)
            self.answers = [client.submit(*question) for _ in range(30)]
            return os.getpid()

    asker: Any = ray.remote(Asker).options(num_cpus=0.1).remote()
    os.kill(ray.get(asker.ask.remote(pool.replicas, question())), signal.SIGKILL)
    assert torch.equal(student(*question()), expected)
    until(lambda: not metrics_of(pool)[0].waiting)


@pytest.mark.timeout(120)
def test_the_pool_notices_a_death_and_the_return(start: Start) -> None:
    pool = start(shaken(SPEC))
    assert not pool.ready and len(pool.replicas) == 1
    ticking(pool, lambda: pool.ready)
    client_of(pool)(*question())
    ticking(pool, lambda: pool.metrics()[0].requests == 1)
    (process,) = teacher_processes()
    process.kill()
    ticking(pool, lambda: not pool.ready)
    assert len(pool.replicas) == 1
    ticking(pool, lambda: pool.ready)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_pool_grows_under_load_and_shrinks_without(start: Start) -> None:
    scale = {"max_replicas": 2, "scale_up_ms": 1.0, "scale_down_ms": 1.0, "scale_seconds": 0.5}
    pool = start(shaken(SPEC), **scale)
    student = client_of(pool, **scale)

    def press() -> bool:
        student.use(pool.replicas)
        [answer.result() for answer in [student.submit(*question(16)) for _ in range(12)]]
        return len(pool.replicas) == 2

    ticking(pool, press)
    assert len(teacher_processes()) == 2
    old = pool.replicas
    ticking(pool, lambda: len(pool.replicas) == 1)
    student.use(old)
    for _ in range(2):  # the one that is retired answers as well, for a while
        student(*question())


def ticking(pool: Any, reached: Callable[[], bool]) -> None:
    def tick() -> bool:
        pool.tick()
        return reached()

    until(tick)


def until(reached: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.2)


def teacher_processes() -> list[psutil.Process]:
    """Of this process's cluster; others may be on the machine."""
    return [p for p in psutil.Process().children(recursive=True) if "ray::TeacherActor" in " ".join(p.cmdline())]
