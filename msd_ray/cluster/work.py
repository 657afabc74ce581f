"""Tasks and their segments, as driver and slots exchange them. No Ray in here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from msd_ray.cluster.progress import Progress
from msd_ray.cluster.ray_train.exchange import Exchange

if TYPE_CHECKING:
    import torch

    from msd_ray.runs.plan import StudentPlan


class Training(Protocol):
    """A trainer in the process of a slot. nimg: images it has seen. bytes: the memory it holds on its `device`.
    exchange: where workers that train the student together ask how far they may go, None where there are none."""

    @property
    def exchange(self) -> Exchange | None: ...

    @property
    def nimg(self) -> int: ...

    @property
    def bytes(self) -> int: ...

    @property
    def device(self) -> "torch.device": ...

    def advance(self, images: int, replicas: list[Any], hurried: Callable[[], bool]) -> Progress:
        """Trains on `images` more images, fewer once `hurried()`, and writes a checkpoint. replicas: of the teacher.

        A thread may still be writing the checkpoint afterwards, except if the student is done, was hurried or trained
        on no image at all.
        """
        ...

    def current_progress(self) -> Progress:
        """The progress now; another thread asks for it during a segment, so it does not wait."""
        ...

    def rest(self) -> None:
        """Makes room for another student: releases everything except the memory that it needs to go on. Waits for its
        checkpoint first, and raises the error of writing it, if any."""
        ...


class SingleProcess:
    """The exchange of a training without workers."""

    exchange = None

    def rest(self) -> None:
        """Does nothing: between two segments it holds only memory."""


class Task(Protocol):
    """All that a slot needs to open a student's training; small, since it is sent to each slot that takes the
    student."""

    def open(self, known: int = 0) -> Training:
        """The trainer from its newest checkpoint. known: images of a checkpoint that is known to be written. Raises
        TrainingError if no checkpoint of so many images is visible here, so that the storage is not shared."""
        ...


@dataclass(frozen=True)
class ScheduledTask:
    """A task that the driver runs to its end. segment: images between checkpoints. after: the number of the task that
    has to be done before. trunk: the name of the student that it branches off from; begins: images that this one was
    trained on."""

    name: str
    images: int
    segment: int
    task: Task
    after: int | None = None
    begins: int = 0
    trunk: str = ""


@dataclass(frozen=True)
class Segment:
    """One segment for a slot. nimg: of the student as the driver knows it, None if it knows nothing yet. saved: images
    of its newest checkpoint that the driver knows to be written. parked: the other students that the slot may keep in
    memory. replicas: of the teacher pool."""

    student: int
    work: ScheduledTask
    nimg: int | None
    parked: frozenset[int] = frozenset()
    replicas: list[Any] = field(default_factory=list)
    saved: int = 0


def scheduled(students: "Sequence[StudentPlan]", tasks: Sequence[Task], segment: int) -> list[ScheduledTask]:
    """The students with their tasks, each after the trunk that it branches off from, if that is among them."""
    numbers = {student.directory: i for i, student in enumerate(students)}
    return [
        ScheduledTask(
            student.name,
            student.spec.images,
            segment,
            task,
            after=numbers.get(student.trunk.directory) if student.trunk else None,
            begins=student.spec.begins,
            trunk=student.trunk.name if student.trunk else "",
        )
        for student, task in zip(students, tasks, strict=True)
    ]
