"""What is relied on of Ray outside of its public API, and what happens without it."""

import logging
from typing import Any

import pytest


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_node_tells_whether_it_is_being_drained() -> None:
    """tests/cluster/test_slots.py drains one."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status

    from msd_ray.cluster.ray_private import draining_nodes

    seen = get_cluster_status(ray.get_runtime_context().gcs_address)
    (node,) = [*seen.active_nodes, *seen.idle_nodes]
    assert node.node_id == ray.get_runtime_context().get_node_id()
    assert node.node_status in ("RUNNING", "IDLE")
    assert draining_nodes() == set()


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_placement_group_tells_whether_its_maker_is_dead() -> None:
    """tests/cluster/test_abandoned.py kills one."""
    import ray
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]  # generated

    from msd_ray.cluster.ray_private import abandoned_groups

    made = ray.util.placement_group([{"CPU": 0.1}])  # by no actor
    groups = map(PlacementGroupTableData.FromString, state._connect_and_get_accessor().get_placement_group_table())
    (group,) = [g for g in groups if g.placement_group_id == made.id.binary()]
    assert group.creator_job_id.hex() == ray.get_runtime_context().get_job_id()
    assert group.creator_actor_dead
    assert group.creator_actor_id == ray.ActorID.nil().binary()
    assert not (group.is_detached or group.state == group.REMOVED)
    assert made.id not in [g.id for g in abandoned_groups()]
    ray.util.remove_placement_group(made)


@pytest.mark.parametrize("name", ["draining_nodes", "abandoned_groups"])
def test_a_ray_without_it_is_warned_of_once(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from msd_ray.cluster import ray_private

    def gone(*args: Any) -> None:
        raise AttributeError("no such thing\nany more")

    monkeypatch.setattr("ray.get_runtime_context", gone)
    monkeypatch.setattr(ray_private, "_warned", set())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert not getattr(ray_private, name)()
    (record,) = caplog.records
    assert "AttributeError" in record.message
