"""Room on the cluster that is held for the dead."""

from ray.util.placement_group import remove_placement_group

from msd_ray.cluster.ray_private import abandoned_groups


def release_abandoned() -> None:
    """Removes the placement groups of this job that were made by an actor which is dead.

    These are of Ray Train's controllers, which die with the slot that began them, and their workers with them. Ray
    keeps the groups until the job ends, and goes on to create one that had to wait; Ray Train itself frees only those
    whose workers had begun, and not without a dashboard.
    """
    for group in abandoned_groups():
        remove_placement_group(group)
