"""The program of the workers that share a student. Ray Train starts them, and restarts all if one dies."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
import torch
from ray import train
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import get_device

from msd_ray.cluster.progress import Progress
from msd_ray.cluster.ray_train.exchange import Grant
from msd_ray.cluster.students import StudentTask
from msd_ray.errors import MsdRayError, one_line
from msd_ray.training.process_group import ProcessGroup

POLL = 0.2
"""Seconds between two questions how far the student may go."""
LOOK = 1.0
"""Seconds between two questions whether the running segment must end early."""


def share(config: dict[str, Any]) -> None:
    """Trains a student as one of Ray Train's workers. config: `task`, its StudentTask; `number`, of the task; `slot`, a
    handle of the actor that says how far to train.

    Only rank 0 writes; its checkpoints are those of a student that trains alone.
    """
    context = train.get_context()
    group = ProcessGroup(context.get_world_rank(), context.get_world_size())
    task: StudentTask = config["task"]
    line = SlotConnection(config["slot"], config["number"], group)
    try:
        _train(task, line)
    except MsdRayError as error:  # only our own would come again; others may be of the node, or of a worker that died
        line.give_up(error)
        raise


def _train(task: StudentTask, line: "SlotConnection") -> None:
    if task.inputs.gpus:
        torch.cuda.set_device(get_device())
    training = task.open(group=line.group)
    _refuse_if_apart(task, line.group, training.nimg)
    progress, hurried = training.current_progress(), partial(line.hurried, training.current_progress)
    while not (grant := line.next(progress)).over:
        progress = training.advance(grant.nimg - training.nimg, grant.replicas, hurried)
    training.rest()


def _refuse_if_apart(task: StudentTask, group: ProcessGroup, nimg: int) -> None:
    """Raises RuntimeError, which is tried again, where this worker found another checkpoint than rank 0."""
    first = broadcast_from_rank_zero(nimg)
    if nimg != first:
        raise RuntimeError(
            f"worker {group.rank} of student {task.spec.index} found its checkpoint of {nimg} images, worker 0 that of "
            f"{first}; is {task.checkpoints.uri} storage that all nodes share?"
        )


@dataclass
class SlotConnection:
    """From a worker to the slot. student: its number, as the driver counts: a trunk and a student of an ensemble may
    have the same index."""

    slot: Any
    student: int
    group: ProcessGroup
    asked: Any = None  # the reference of a question under way
    looked: float = 0.0

    def next(self, progress: Progress) -> Grant:
        """Reports the student's progress to the slot, and waits until it may go on or must end. The answer is the same
        for all workers, which wait for each other here."""
        grant = self._wait(progress) if self.group.rank == 0 else self._ask(None)
        nimg, over = broadcast_from_rank_zero((grant.nimg, grant.over))
        return replace(grant, nimg=nimg, over=over)

    def hurried(self, current_progress: Callable[[], Progress]) -> bool:
        """Whether the segment must end early. Rank 0 asks for all, and does not wait for the answer. The question
        reports the student's progress as well."""
        if self.group.rank or time.monotonic() - self.looked < LOOK:
            return False
        if self.asked is None:
            self.asked = self._send(None, current_progress())
        ready, _ = ray.wait([self.asked], timeout=0)
        if not ready:
            return False
        grant: Grant = ray.get(self.asked)
        self.asked, self.looked = None, time.monotonic()
        return grant.over

    def give_up(self, error: MsdRayError) -> None:
        ray.get(self.slot.give_up.remote(self.student, one_line(error)))

    def _wait(self, progress: Progress) -> Grant:
        grant = self._ask(progress)
        while not grant.over and grant.nimg <= progress.nimg:
            time.sleep(POLL)
            grant = self._ask(None)
        return grant

    def _ask(self, progress: Progress | None) -> Grant:
        grant: Grant = ray.get(self._send(progress))
        return grant

    def _send(self, progress: Progress | None, live: Progress | None = None) -> Any:
        return self.slot.exchange.remote(self.student, progress, live)
