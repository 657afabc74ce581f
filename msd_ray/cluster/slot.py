"""A slot: a process with its share of a node's CPUs and GPUs, in which students take turns."""

import threading
from contextlib import suppress

import ray

from msd_ray.cluster.ray_train.exchange import Exchange, Grant
from msd_ray.cluster.work import Progress, Segment, Training
from msd_ray.errors import MsdRayError
from msd_ray.training.device import free_memory

ROOM = 3
"""A student stays in memory between its turns while this many times its size is free: others will come beside it."""


class Slot:
    """Trains whichever student it is given, one at a time. Those it trained before stay in memory while there is room;
    any that it does not hold, or holds as it was before another slot trained it, is read from its newest checkpoint."""

    def __init__(self) -> None:
        # Nothing that can fail happens here: an error in a method reaches the driver as it is, one here does not.
        self._held: dict[int, Training] = {}
        self._exchanges: dict[int, Exchange] = {}  # of the students that workers may call about
        self._hurried = threading.Event()
        self._advancing: Training | None = None

    def ready(self) -> tuple[str, str]:
        """The id of the node that the slot is on, and the numbers of the GPUs that it was given. Whoever asks begins
        here: the students of a driver before it, who may have had the same numbers, are forgotten."""
        self._held.clear()
        context = ray.get_runtime_context()
        return str(context.get_node_id()), ",".join(context.get_accelerator_ids().get("GPU", []))

    def advance(self, order: Segment) -> Progress:
        """Trains the order's student for a segment; a checkpoint ends it."""
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
        """Ends the segment under way at the next chance; the slot is about to go."""
        self._hurried.set()

    @ray.method(concurrency_group="control")
    def look(self) -> Progress | None:
        """Where the student of the segment under way stands; None where it is still being read, or there is none."""
        advancing = self._advancing
        return advancing.current_progress() if advancing else None

    @ray.method(concurrency_group="control")
    def exchange(self, student: int, progress: Progress | None, live: Progress | None) -> Grant:
        """What a worker of a shared student tells of its checkpoint or on its way to the next, and how far it may
        go."""
        return self._exchanges[student].tell(progress, live)

    @ray.method(concurrency_group="control")
    def give_up(self, student: int, reason: str) -> None:
        """A worker of a shared student met an error that another try would meet as well."""
        self._exchanges[student].give_up(reason)

    def _make_room(self, order: Segment) -> None:
        """Forgets the students that are not to be kept; those that are keep nothing but memory."""
        others = set(self._held) - {order.student}
        for student in others:
            self._held[student].rest()
        for student in others:
            if student not in order.parked or not _leaves_room(self._held[student]):
                del self._held[student]


def _leaves_room(training: Training) -> bool:
    return training.bytes * ROOM < free_memory(training.device)
