"""A slot: a process with its share of a node's CPUs and GPUs, in which students take turns."""

import threading
from contextlib import suppress

import ray
import torch

from msd_ray.cluster.progress import Progress
from msd_ray.cluster.ray_train.exchange import Exchange, Grant
from msd_ray.cluster.work import Segment, Training
from msd_ray.errors import MsdRayError
from msd_ray.training.device import free_memory

ROOM = 3
"""A student stays in memory between its turns while this many times its size is free for others."""


class Slot:
    """Trains the students that the driver gives it, one at a time. Students that it trained before stay in memory while
    there is room. A student that is not in memory, or that another slot has trained since, is read from its newest
    checkpoint."""

    def __init__(self) -> None:
        # Nothing here can fail: the driver gets the errors of methods as they are, but not those of a constructor.
        self._held: dict[int, Training] = {}
        self._exchanges: dict[int, Exchange] = {}  # of the students that workers may call about
        self._hurried = threading.Event()
        self._advancing: Training | None = None

    def ready(self) -> tuple[str, str]:
        """The id of the node that the slot is on, and the numbers of the GPUs that it was given. Whoever asks begins
        here: the students of a driver before it, who may have had the same numbers, are forgotten."""
        self._held.clear()
        self._exchanges.clear()
        self._hurried.clear()
        torch.cuda.empty_cache()
        context = ray.get_runtime_context()
        return str(context.get_node_id()), ",".join(context.get_accelerator_ids().get("GPU", []))

    def advance(self, order: Segment) -> Progress:
        """Trains the student for a segment, which ends with a checkpoint."""
        self._make_room(order)
        training = self._held.pop(order.student, None)
        if training and training.nimg != order.nimg:
            training = None  # before the memory is needed for what replaces it
        training = training or order.work.task.open(order.saved)
        if training.exchange:
            self._exchanges[order.student] = training.exchange
        self._advancing = training
        try:
            progress = training.advance(order.work.segment, order.replicas, self._hurried.is_set)
        except BaseException:
            with suppress(MsdRayError):
                training.rest()  # so that it writes nothing while others try again
            raise
        finally:
            self._advancing = None
        if not progress.done:
            self._held[order.student] = training
        return progress

    @ray.method(concurrency_group="control")
    def hurry(self) -> None:
        """Ends the running segment at the next update, since the slot is about to end."""
        self._hurried.set()

    @ray.method(concurrency_group="control")
    def progress(self) -> Progress | None:
        """The progress of the running segment's student; None while it is being read, or if no segment runs."""
        advancing = self._advancing
        return advancing.current_progress() if advancing else None

    @ray.method(concurrency_group="control")
    def exchange(self, student: int, progress: Progress | None, live: Progress | None) -> Grant:
        """A worker of a shared student reports its checkpoint or its progress since; returns how far it may go."""
        return self._exchanges[student].tell(progress, live)

    @ray.method(concurrency_group="control")
    def give_up(self, student: int, reason: str) -> None:
        """A worker of a shared student met an error that another try would meet as well."""
        self._exchanges[student].give_up(reason)

    def _make_room(self, order: Segment) -> None:
        """Removes students that are not to be kept from memory; the kept ones release everything but memory."""
        others = set(self._held) - {order.student}
        for student in others:
            self._held[student].rest()
        for student in others:
            if student not in order.parked or not _leaves_room(self._held[student]):
                del self._held[student]


def _leaves_room(training: Training) -> bool:
    return training.bytes * ROOM < free_memory(training.device)
