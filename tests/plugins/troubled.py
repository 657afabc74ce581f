"""Slots and teachers in which something goes wrong, in place of the real ones and under their names."""

import os
from typing import Any

import ray

from msd_ray.cluster import slot
from msd_ray.cluster.pool import replica
from msd_ray.cluster.pool.batching import Request
from msd_ray.cluster.students import StudentTask
from msd_ray.cluster.work import Order, Progress

SICK = "TROUBLED_NODE"
"""The variable that names the node on which students meet an error."""


class Slot(slot.Slot):
    """On one node each order of a student ends as on a GPU that lost its context."""

    def advance(self, order: Order) -> Progress:
        if isinstance(order.work.task, StudentTask) and ray.get_runtime_context().get_node_id() == os.environ[SICK]:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return super().advance(order)


class TeacherActor(replica.TeacherActor):
    """Each of its processes answers so many requests and then nothing but errors."""

    ANSWERS = 150

    def _compute(self, batch: list[Request]) -> Any:
        self.answers = getattr(self, "answers", 0) + 1
        began, outcomes = super()._compute(batch)
        if self.answers > self.ANSWERS:
            outcomes = [RuntimeError("CUDA error: an illegal memory access was encountered") for _ in batch]
        return began, outcomes
