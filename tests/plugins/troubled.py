"""Slots and teachers in which something goes wrong, in place of the real ones and under their names."""

import threading
from typing import Any

import ray

from msd_ray.cluster import slot
from msd_ray.cluster.pool import replica
from msd_ray.cluster.pool.batching import Request
from msd_ray.cluster.progress import Progress
from msd_ray.cluster.students import StudentTask
from msd_ray.cluster.work import Segment
from msd_ray.evaluation import Judge


def slot_of(sick: str) -> type[slot.Slot]:
    """Slots that end each order of a student on the node `sick` as on a GPU that lost its context."""

    class Slot(slot.Slot):
        def advance(self, order: Segment) -> Progress:
            if isinstance(order.work.task, StudentTask) and ray.get_runtime_context().get_node_id() == sick:
                raise RuntimeError("CUDA error: device-side assert triggered")
            return super().advance(order)

    return Slot


class Unmeasurable(slot.Slot):
    """Slots in which the FID of any student never ends."""

    def advance(self, order: Segment) -> Progress:
        Judge.fid = lambda *_: threading.Event().wait()  # type: ignore[assignment,method-assign,return-value]
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
