"""Attaching to a Ray cluster, or starting a local one, and asking it first whether the run fits.

This module imports ray inside its functions only: what a local cluster listens on is decided by the environment at
the moment ray is first imported.
"""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

from msd_ray.errors import UserError
from msd_ray.recipes import ClusterConfig


def listen_on_loopback(address: str | None) -> None:
    """To be called before ray is first imported: a local cluster, should one be started, stays on 127.0.0.1."""
    if not (address or os.environ.get("RAY_ADDRESS")):
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # the switch by which Ray does that


@contextmanager
def connected(address: str | None = None) -> Iterator[str]:
    """A connection to the cluster at `address` or RAY_ADDRESS, or to a local one started for this block alone.

    Yields a line that says which. A local cluster listens on the loopback interface only. A process that is connected
    already stays so. Raises UserError where no cluster answers.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    listen_on_loopback(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default; it warns otherwise
    import ray

    if ray.is_initialized():
        yield "the Ray cluster that this process is connected to"
        return
    try:
        ray.init(address=address or "local", include_dashboard=None if address else False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"no Ray cluster at {address}: {reason}; start one with `ray start --head`") from None
    try:
        yield f"Ray cluster at {address}" if address else "local Ray cluster on 127.0.0.1"
    finally:
        ray.shutdown()


def slots_for(students: int, config: ClusterConfig, available: dict[str, float]) -> int:
    """How many of the `students` can train at once beside the teacher pool on a cluster with these resources.

    Raises UserError where not even one fits.
    """
    pool = config.pool_size if config.teacher == "pool" else 0
    slots = students
    for resource, per_student, per_teacher in [
        ("GPU", config.gpus_per_student, config.pool_gpus),
        ("CPU", config.cpus_per_student, config.pool_cpus),
    ]:
        have = available.get(resource, 0.0)
        left = have - pool * per_teacher
        if left < per_student or left < 0:
            raise UserError(_too_few(resource, students, per_student, pool, per_teacher, have))
        if per_student:
            slots = min(slots, math.floor(left / per_student + 1e-9))
    return slots


def _too_few(resource: str, students: int, per_student: float, pool: int, per_teacher: float, have: float) -> str:
    shared = pool * per_teacher
    needed, least = students * per_student + shared, per_student + shared
    teachers = f" and {per_teacher:g} for each of {pool} teacher actors" if shared else ""
    return (
        f"needs {needed:g} {resource}s ({per_student:g} for each of {students} students{teachers}; at the very least "
        f"{least:g}, to train one student after the other), the cluster has {have:g}: add nodes, or lower "
        f"cluster.{resource.lower()}s_per_student{f' or cluster.pool_{resource.lower()}s' if shared else ''}"
    )
