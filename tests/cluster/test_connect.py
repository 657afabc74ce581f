import pytest

from msd_ray.cluster.connect import slots_for
from msd_ray.errors import UserError
from msd_ray.recipes import ClusterConfig

FIVE_GPUS = ClusterConfig(gpus_per_student=1.0, cpus_per_student=1.0, pool_cpus=1.0)


def test_slots_are_what_fits_beside_the_pool() -> None:
    assert slots_for(5, FIVE_GPUS, {"GPU": 8, "CPU": 16}) == 5
    assert slots_for(5, FIVE_GPUS, {"GPU": 3, "CPU": 16}) == 3
    assert slots_for(5, FIVE_GPUS, {"GPU": 8, "CPU": 4}) == 3
    thirds = ClusterConfig(cpus_per_student=0.1, pool_cpus=0.1)
    assert slots_for(9, thirds, {"CPU": 1}) == 9


def test_a_local_teacher_needs_no_pool() -> None:
    config = ClusterConfig(teacher="local", cpus_per_student=1.0, pool_cpus=50.0)
    assert slots_for(2, config, {"CPU": 2}) == 2


def test_too_few_are_named_in_one_line() -> None:
    with pytest.raises(UserError, match=r"needs 5 GPUs .*the cluster has 0") as caught:
        slots_for(5, FIVE_GPUS, {"CPU": 16})
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"needs 6 CPUs .*at the very least 2, .*the cluster has 1"):
        slots_for(5, FIVE_GPUS, {"GPU": 5, "CPU": 1})
