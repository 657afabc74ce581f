from dataclasses import replace

import pytest

from msd_ray.cluster.connect import connected, slots_for, workers_for
from msd_ray.errors import UserError
from msd_ray.recipes import ClusterConfig, PoolConfig

FIVE_GPUS = ClusterConfig(gpus_per_student=1.0, cpus_per_student=1.0)


def test_slots_are_what_fits_beside_the_pool() -> None:
    assert slots_for(5, FIVE_GPUS, {"GPU": 8, "CPU": 16}) == 5
    assert slots_for(5, FIVE_GPUS, {"GPU": 3, "CPU": 16}) == 3
    assert slots_for(5, FIVE_GPUS, {"GPU": 8, "CPU": 4}) == 3
    thirds = ClusterConfig(cpus_per_student=0.1, pool=PoolConfig(cpus=0.1))
    assert slots_for(9, thirds, {"CPU": 1}) == 9


def test_a_local_teacher_needs_no_pool() -> None:
    config = ClusterConfig(teacher="local", cpus_per_student=1.0, pool=PoolConfig(cpus=50.0))
    assert slots_for(2, config, {"CPU": 2}) == 2


def test_room_is_kept_for_the_replicas_that_there_are_at_the_least() -> None:
    config = ClusterConfig(cpus_per_student=1.0, pool=PoolConfig(min_replicas=2, max_replicas=4, cpus=0.5))
    assert slots_for(9, config, {"CPU": 4}) == 3


def test_a_shared_student_needs_room_for_the_fewest_workers() -> None:
    config = ClusterConfig(workers_per_student=(2, 4), pool=PoolConfig(cpus=1.0))
    assert slots_for(9, config, {"CPU": 8}) == 3
    with pytest.raises(UserError, match=r"needs 5 CPUs \(2 for each of 2 students and 1 .*at the very least 3, "):
        slots_for(2, config, {"CPU": 2})


def test_workers_are_within_their_bounds_what_fits_beside_a_grown_pool() -> None:
    config = ClusterConfig(workers_per_student=(2, 4), pool=PoolConfig(max_replicas=3, cpus=1.0))
    assert [workers_for(1, config, {"CPU": n}) for n in (3, 5, 6, 7, 20)] == [2, 2, 3, 4, 4]
    assert workers_for(2, config, {"CPU": 9}) == 3
    assert workers_for(2, replace(config, teacher="local"), {"CPU": 9}) == 4
    assert workers_for(1, replace(config, gpus_per_student=0.5), {"CPU": 20, "GPU": 1.6}) == 3
    assert workers_for(2, ClusterConfig(workers_per_student=(1, 2), cpus_per_student=0.0), {}) == 2


def test_too_few_are_named_in_one_line() -> None:
    with pytest.raises(UserError, match=r"needs 5 GPUs .*the cluster has 0") as caught:
        slots_for(5, FIVE_GPUS, {"CPU": 16})
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"needs 6 CPUs .*at the very least 2, .*the cluster has 1"):
        slots_for(5, FIVE_GPUS, {"GPU": 5, "CPU": 1})


def test_a_local_cluster_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises a plain Exception then."""
    import ray

    def init(*args: object, **kwargs: object) -> None:
        raise Exception("The current node timed out\nduring startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(UserError, match=r"^no local Ray cluster could be started: .* timed out during startup\.$"):
        connected().__enter__()
