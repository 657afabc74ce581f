"""When the pool grows and shrinks, and what it measures. No Ray."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd_ray.cluster.pool.autoscaling import QueueReading, replicas_wanted
from msd_ray.cluster.pool.replica_metrics import WINDOW, Forward, ReplicaMeter
from msd_ray.recipes import PoolConfig

CONFIG = PoolConfig(max_replicas=3, scale_up_ms=100.0, scale_down_ms=10.0, scale_seconds=5.0)


def looks(
    n: int, delay: float, busy: float, seconds: int = 6, used: int | None = None, start: int = 0
) -> list[QueueReading]:
    return [QueueReading(float(start + t), n, n if used is None else used, delay, busy) for t in range(seconds)]


def test_it_grows_where_requests_wait_and_not_beyond_the_most() -> None:
    assert replicas_wanted(looks(1, 150, 1.0), CONFIG) == 2
    assert replicas_wanted(looks(2, 150, 1.0), CONFIG) == 3
    assert replicas_wanted(looks(3, 150, 1.0), CONFIG) == 3
    assert replicas_wanted(looks(1, 90, 1.0), CONFIG) == 1


def test_one_short_look_decides_nothing() -> None:
    assert replicas_wanted(looks(1, 150, 1.0, seconds=5), CONFIG) == 1
    assert replicas_wanted([*looks(1, 50, 1.0), *looks(1, 150, 1.0, seconds=5, start=6)], CONFIG) == 1
    assert replicas_wanted([*looks(1, 150, 1.0), *looks(1, 50, 1.0, seconds=1, start=6)], CONFIG) == 1


def test_after_a_change_the_time_begins_anew() -> None:
    history = looks(1, 150, 1.0, seconds=20) + looks(2, 150, 1.0, seconds=5, start=20)
    assert replicas_wanted(history, CONFIG) == 2
    assert replicas_wanted([*history, *looks(2, 150, 1.0, seconds=1, start=25)], CONFIG) == 3


def test_it_does_not_grow_before_the_newest_replica_is_used() -> None:
    assert replicas_wanted(looks(2, 150, 1.0, used=1), CONFIG) == 2


def test_it_shrinks_where_the_others_would_not_miss_one() -> None:
    assert replicas_wanted(looks(3, 1, 1.3), CONFIG) == 2
    assert replicas_wanted(looks(3, 1, 1.5), CONFIG) == 3
    assert replicas_wanted(looks(3, 20, 0.3), CONFIG) == 3
    assert replicas_wanted(looks(1, 0, 0.0), CONFIG) == 1


@given(
    st.lists(
        st.builds(
            QueueReading,
            st.floats(0, 100),
            st.integers(1, 3),
            st.integers(0, 3),
            st.floats(0, 1000),
            st.floats(0, 3),
        ),
        min_size=1,
    )
)
def test_it_changes_by_one_at_most_and_stays_within_bounds(history: list[QueueReading]) -> None:
    history = sorted(history, key=lambda look: look.seconds)
    wanted = replicas_wanted(history, CONFIG)
    assert abs(wanted - history[-1].replicas) <= 1
    assert CONFIG.min_replicas <= wanted <= CONFIG.max_replicas


def test_a_steady_load_ends_in_a_steady_number() -> None:
    """Work for 1.2 replicas: one is too few, three too many, and two neither."""
    for begin in (1, 2, 3):
        n, history = begin, list[QueueReading]()
        for t in range(200):
            delay = 500.0 if n == 1 else 5.0
            history.append(QueueReading(float(t), n, n, delay, min(n, 1.2)))
            n = replicas_wanted(history, CONFIG)
        assert n == 2


def test_the_meter_says_how_long_requests_waited_and_how_busy_it_was() -> None:
    meter = ReplicaMeter(now=100.0)
    meter.begin(101.0)
    meter.end(Forward(101.0, 103.0, images=24, delays=(0.1, 0.2, 0.3), cpu_seconds=1.5))
    meter.begin(103.0)
    meter.end(Forward(103.0, 104.0, images=8, delays=(0.2,), cpu_seconds=0.5))
    read = meter.read(waiting=[], now=106.0)
    assert (read.requests, read.images, read.forwards, read.waiting) == (4, 32, 2, 0)
    assert read.queue_p50_ms == pytest.approx(200)
    assert read.queue_p99_ms == pytest.approx(297)
    assert (read.batch, read.cpu_seconds, read.utilisation) == (16.0, 2.0, 0.5)


def test_those_that_still_wait_count_and_so_does_what_is_being_computed() -> None:
    meter = ReplicaMeter(now=100.0)
    meter.begin(102.0)
    read = meter.read(waiting=[103.0, 103.5, 104.0], now=104.0)
    assert (read.queue_p50_ms, read.waiting, read.utilisation) == (500.0, 3, 0.5)


def test_what_is_long_past_is_forgotten_but_counted() -> None:
    meter = ReplicaMeter(now=100.0)
    meter.end(Forward(100.0, 110.0, images=4, delays=(9.0,), cpu_seconds=1.0))
    half = meter.read([], now=110.0 + WINDOW / 2)
    assert half.utilisation == pytest.approx(0.5)
    late = meter.read([], now=111.0 + WINDOW)
    assert (late.queue_p99_ms, late.batch, late.utilisation, late.images) == (0.0, 0.0, 0.0, 4)
