"""What a user reads where the memory of a GPU is not enough."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from msd_ray.errors import TrainingError, one_line

FOR_STUDENTS = (
    "the same run can go on with training.recompute=true or training.optimizer_state=host; a new one also takes less "
    "with training.precision=bf16, a smaller batch in its stages, or more training.shards and "
    "cluster.workers_per_student, so that GPUs share a student, and with training.sharding=full its weights"
)
FOR_TEACHERS = "take a smaller teacher.batch or network"


@contextmanager
def enough_memory(who: str, advice: str) -> Iterator[None]:
    """Raises TrainingError, with torch's own first words and the advice, where the block does not find enough."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        said = ". ".join(one_line(error).split(". ")[:2])
        raise TrainingError(f"{who}: {said.rstrip('.')}; {advice}") from None
