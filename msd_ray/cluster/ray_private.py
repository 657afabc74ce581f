"""All uses of Ray outside of its public API, in one place.

Each has a test of what it relies on (tests/cluster/test_ray_private.py). If a version of Ray does not support one, the
run goes on without it, and says once what that means.
"""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.util.placement_group import PlacementGroup

from msd_ray.errors import named

LOG = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")
_warned = set[str]()


def draining_nodes() -> set[str]:
    """The ids of the nodes that are being drained, as a spot instance is before it is taken."""
    return _asked(_draining_nodes, set(), "nodes that are drained are noticed only once they are gone")


def abandoned_groups() -> list[PlacementGroup]:
    """The placement groups of this job that were made by an actor which is dead."""
    return _asked(_abandoned_groups, [], "room that dead workers of a shared student held is not freed")


def _draining_nodes() -> set[str]:
    from ray.autoscaler.v2.sdk import get_cluster_status

    seen = get_cluster_status(ray.get_runtime_context().gcs_address)
    return {str(node.node_id) for node in [*seen.active_nodes, *seen.idle_nodes] if node.node_status == "DRAINING"}


def _abandoned_groups() -> list[PlacementGroup]:
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]  # generated

    job = ray.get_runtime_context().get_job_id()
    nobody = ray.ActorID.nil().binary()  # the driver: Ray calls that maker dead as well

    def is_abandoned(group: Any) -> bool:
        ours = group.creator_job_id.hex() == job and group.creator_actor_id != nobody
        return ours and group.creator_actor_dead and not group.is_detached and group.state != group.REMOVED

    groups = map(PlacementGroupTableData.FromString, state._connect_and_get_accessor().get_placement_group_table())
    return [PlacementGroup(ray.PlacementGroupID(g.placement_group_id)) for g in groups if is_abandoned(g)]


def _asked(question: Callable[[], _Answer], otherwise: _Answer, consequence: str) -> _Answer:
    try:
        return question()
    except Exception as error:  # whatever another Ray makes of it
        if consequence not in _warned:
            _warned.add(consequence)
            reason = named(error)
            LOG.warning("Ray %s cannot be asked (%s): %s", ray.__version__, reason, consequence)
        return otherwise
