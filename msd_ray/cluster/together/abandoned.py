"""Room on the cluster that is held for the dead."""

import ray
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]  # generated
from ray.util.placement_group import PlacementGroup, remove_placement_group


def release_abandoned() -> None:
    """Removes the placement groups of this job that were made by an actor which is dead.

    These are of Ray Train's controllers, which die with the slot that began them, and their workers with them. Ray
    keeps the groups until the job ends, and goes on to create one that had to wait; Ray Train itself frees only those
    whose workers had begun, and not without a dashboard. Who made a group is not in Ray's public API.
    """
    for raw in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(raw)
        if _is_abandoned(group):
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))


def _is_abandoned(group: PlacementGroupTableData) -> bool:
    ours = group.creator_job_id.hex() == ray.get_runtime_context().get_job_id()
    removed = group.state == PlacementGroupTableData.REMOVED
    return bool(ours and group.creator_actor_dead and not group.is_detached and not removed)
