"""The number of a student's replicas follows from how long images wait, where that is asked for."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from msd_ray.errors import UserError
from msd_ray.serving.serve_apps.scaling import BUSY, DELAY, by_queue_delay
from msd_ray.serving.service.config import load_config
from msd_ray.serving.service.strain import Strain

from .whole import Load, eventually, replicas, started


def wanted(running: int, delays: list[float], busy: list[float], target: int = 0) -> float:
    metrics = {DELAY: dict(enumerate(delays)), BUSY: dict(enumerate(busy))}
    context = SimpleNamespace(
        current_num_replicas=running, target_num_replicas=target or running, aggregated_metrics=metrics
    )
    return by_queue_delay(context)[0]


def test_it_grows_by_the_delay_and_at_most_to_twice_as_many() -> None:
    assert wanted(2, [1.5, 1.5], [1, 1]) == 3
    assert wanted(2, [0.0, 9.0], [1, 1]) == 4


def test_it_shrinks_as_far_as_the_rest_has_time_for_the_work() -> None:
    assert wanted(4, [0.5] * 4, [0.35] * 4) == pytest.approx(2)
    assert wanted(3, [0.0] * 3, [0.0] * 3) == 0  # Serve keeps min_replicas
    assert wanted(2, [0.9, 0.9], [1, 1]) == 2  # busy, but nobody waits for long


def test_it_stays_as_long_as_no_replica_has_said_anything() -> None:
    assert wanted(1, [], [], target=2) == 2
    assert wanted(0, [0.0], [0.0], target=1) == 1


def test_a_replica_says_how_long_images_waited_since_it_was_asked_last() -> None:
    now = [0.0]
    strain = Strain(lambda: now[0])
    strain.evaluated([0.1, 0.3], 0.5)
    now[0] = 2.0
    assert strain.look(oldest=7.0) == (pytest.approx(0.2), 0.25)
    now[0] = 3.0
    assert strain.look(oldest=7.0) == (7.0, 0.0)
    strain.evaluated([0.0], 5.0)  # longer than there was time since the last look
    now[0] = 4.0
    assert strain.look(oldest=7.0) == (0.0, 1.0)


def test_it_needs_a_range_of_replicas() -> None:
    with pytest.raises(UserError, match="queue_delay_ms needs max_replicas above min_replicas"):
        load_config(None, ["students.queue_delay_ms=50"])


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_serve_adds_a_replica_under_load_and_removes_it_after(cluster: None, tmp_path: Path) -> None:
    import ray

    overrides = ["students.max_replicas=2", "students.queue_delay_ms=0.01", "students.idle_seconds=1"]
    with started(tmp_path, ray.get_runtime_context().gcs_address, "", *overrides) as site:
        with Load(site.where) as load:
            assert eventually(lambda: len(replicas("ServeReplica:msd-ray-part-")) == 4)
            load.more(30)
        assert eventually(lambda: len(replicas("ServeReplica:msd-ray-part-")) == 2)
    assert load.errors == []
