"""Whether each part of the conditions gets replicas of its own, by the memory there is."""

import resource

import ray

from msd_ray.serving.core.catalogue import Version
from msd_ray.serving.core.config import ServeConfig

BYTES_PER_PARAMETER = 8  # float32 weights, and as much again for what a network computes with
SHARE = 0.8  # of the cluster's memory that students may take


def multiplexed(version: Version, config: ServeConfig) -> bool:
    """As the configuration says; for `auto`: whether replicas for all parts at once would be too much for the cluster
    that we are connected to. A replica is taken to need what this process does, which has imported the same, beside
    the weights of its students."""
    students = config.students
    if students.placement != "auto":
        return students.placement == "multiplexed"
    have, parts = ray.cluster_resources(), len(version.parts)  # type: ignore[no-untyped-call]
    process = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    weights = BYTES_PER_PARAMETER * sum(student.parameters for student in version.students)
    fits = parts * process + weights <= SHARE * have.get("memory", 0)
    cpus = parts * students.cpus + config.front.replicas * config.front.cpus <= have.get("CPU", 0)
    return not (fits and cpus and parts * students.gpus <= have.get("GPU", 0))
