"""Connects to a Ray cluster, or starts a local one, and checks that the run fits.

This module imports ray inside its functions only: what a local cluster listens on is decided by the environment at
the moment ray is first imported.
"""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

from msd_ray.cluster.local_cluster import local_cluster
from msd_ray.errors import UserError, one_line
from msd_ray.proxies import bypass_proxies
from msd_ray.recipes import ClusterConfig


def listen_on_loopback(address: str | None) -> None:
    """Makes a local cluster stay on 127.0.0.1. Must be called before ray is first imported."""
    if not (address or os.environ.get("RAY_ADDRESS")):
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # the switch by which Ray does that


@contextmanager
def connected(address: str | None = None, dashboard: bool = False) -> Iterator[str]:
    """A connection to the cluster at `address` or RAY_ADDRESS, or to a local one started for this block alone.

    Yields a line that says which. A local cluster listens on the loopback interface only; `dashboard`: whether it has
    one, which Ray Train needs to clean up. A process that is connected already stays connected. Raises UserError if no
    cluster answers, or none can be started.

    Ray prints what the cluster's processes print, and how they die, on this one's standard output.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    listen_on_loopback(address)
    bypass_proxies(*([_host(address)] if address else []))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default; it warns otherwise
    import ray

    if ray.is_initialized():
        yield "the Ray cluster that this process is connected to"
        return
    with _attached(address) if address else local_cluster(dashboard):
        yield f"Ray cluster at {address}" if address else "local Ray cluster on 127.0.0.1"


@contextmanager
def _attached(address: str) -> Iterator[None]:
    import ray

    try:
        ray.init(address=address, logging_level=logging.ERROR)
    except Exception as error:
        reason = one_line(error)
        raise UserError(f"no Ray cluster at {address}: {reason}; start one with `ray start --head`") from None
    try:
        yield
    finally:
        ray.shutdown()


def _host(address: str) -> str:
    """Of host:port, with or without a scheme; empty for words such as auto."""
    return address.rpartition("://")[2].rpartition(":")[0].strip("[]")


def check_room(students: int, config: ClusterConfig) -> None:
    """Raises UserError if the connected cluster has no room for `config.min_slots` students at a time, or for all if
    there are fewer. With Ray's autoscaler the room is not known in advance, so nothing is checked."""
    if config.autoscale:
        return
    refuse_few(slots_for(students, config, _resources()), students, config)


def refuse_few(slots: int, students: int, config: ClusterConfig) -> None:
    """Raises UserError if a run needs more slots than these to begin."""
    needed = min(config.min_slots, students)
    if slots < needed:
        raise UserError(
            f"needs room for {needed} students at a time (cluster.min_slots), the cluster has it for {slots}: "
            f"add nodes, or lower cluster.min_slots"
        )


def room_for(students: int, config: ClusterConfig) -> int:
    """How many students fit on the cluster as it is now, by the sum of its nodes' resources."""
    try:
        return slots_for(students, config, _resources())
    except UserError:
        return 0


@contextmanager
def request_nodes(students: int, config: ClusterConfig) -> Iterator[None]:
    """Asks Ray's autoscaler for the nodes that students and pool need during this block, if the recipe says so."""
    from ray.autoscaler.sdk import request_resources

    if not config.autoscale:
        yield
        return
    slots = min(students, config.max_slots or students)
    bundles = [_bundle(config.cpus_per_student, config.gpus_per_student)] * slots * config.workers_per_student[0]
    if config.teacher == "pool":
        bundles += [_bundle(config.pool.cpus, config.pool.gpus)] * config.pool.min_replicas
    request_resources(bundles=bundles)
    try:
        yield
    finally:
        request_resources(bundles=[])


def _bundle(cpus: float, gpus: float) -> dict[str, float]:
    return {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount}


def _resources() -> dict[str, float]:
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources


def slots_for(students: int, config: ClusterConfig, available: dict[str, float]) -> int:
    """How many of the `students` can train at once beside the teacher pool on a cluster with these resources. Replicas
    beyond the pool's `min_replicas` get what students leave free, or nodes that join later.

    Raises UserError if not even one fits.
    """
    pool = config.pool.min_replicas if config.teacher == "pool" else 0
    slots, workers = students, config.workers_per_student[0]
    for resource, per_student, per_teacher in [
        ("GPU", config.gpus_per_student * workers, config.pool.gpus),
        ("CPU", config.cpus_per_student * workers, config.pool.cpus),
    ]:
        have = available.get(resource, 0.0)
        left = have - pool * per_teacher
        if left < per_student or left < 0:
            raise UserError(_too_few(resource, students, per_student, pool, per_teacher, have))
        if per_student:
            slots = min(slots, times(left, per_student))
    return slots


def workers_for(students: int, config: ClusterConfig, available: dict[str, float]) -> int:
    """How many workers each of so many students can have at once on a cluster with these resources: within the recipe's
    bounds, and beside a teacher pool as large as it may become."""
    pool = config.pool.max_replicas if config.teacher == "pool" else 0
    left = dict(available)
    for resource, amount in _bundle(config.pool.cpus, config.pool.gpus).items():
        left[resource] = left.get(resource, 0.0) - pool * amount
    fewest, most = config.workers_per_student
    return max(fewest, workers_in(left, config, wanted=students * most) // students)


def workers_in(free: dict[str, float], config: ClusterConfig, wanted: int) -> int:
    """How many of the wanted workers fit into these resources."""
    bundle = _bundle(config.cpus_per_student, config.gpus_per_student)
    return min([wanted, *(times(free.get(name, 0.0), amount) for name, amount in bundle.items())])


def times(free: float, each: float) -> int:
    """How often `each` fits into `free`; ten tenths fit into one, in spite of rounding."""
    return math.floor(free / each + 1e-9)


def _too_few(resource: str, students: int, per_student: float, pool: int, per_teacher: float, have: float) -> str:
    shared = pool * per_teacher
    needed, least = students * per_student + shared, per_student + shared
    teachers = f" and {per_teacher:g} for each of {pool} teacher actors" if shared else ""
    return (
        f"needs {needed:g} {resource}s ({per_student:g} for each of {students} students{teachers}; at the very least "
        f"{least:g}, to train one student after the other), the cluster has {have:g}: add nodes, or lower "
        f"cluster.{resource.lower()}s_per_student{f' or cluster.pool.{resource.lower()}s' if shared else ''}"
    )
