"""What Ray's autoscaler is asked for. There is none here: Ray only takes the requests in."""

from typing import Any

import pytest

from msd_ray.recipes import ClusterConfig, PoolConfig

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]
POOL = PoolConfig(min_replicas=2, max_replicas=2, cpus=1.0)
CONFIG = ClusterConfig(autoscale=True, cpus_per_student=2.0, gpus_per_student=0.5, max_slots=3, pool=POOL)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The bundles of each request so far; the requests go on to Ray."""
    from ray.autoscaler import sdk

    requests, real = list[Any](), sdk.request_resources

    def request_resources(bundles: Any) -> None:
        real(bundles=bundles)
        requests.append(bundles)

    monkeypatch.setattr(sdk, "request_resources", request_resources)
    return requests


def test_nodes_for_all_slots_and_the_pool_are_asked_for_and_given_back(asked: list[Any]) -> None:
    from msd_ray.cluster.connect import request_nodes

    with request_nodes(5, CONFIG):
        assert asked == [[{"CPU": 2.0, "GPU": 0.5}] * 3 + [{"CPU": 1.0}] * 2]
    assert asked[1:] == [[]]


def test_nothing_is_asked_for_where_the_recipe_does_not_say_so(asked: list[Any]) -> None:
    from msd_ray.cluster.connect import request_nodes

    with request_nodes(5, ClusterConfig()):
        pass
    assert not asked
