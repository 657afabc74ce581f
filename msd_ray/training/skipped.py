"""Updates that are left out since their gradient is not finite."""

import torch
from torch import Tensor

from msd_ray.errors import TrainingError
from msd_ray.training.metrics import Metric

UNREAD = 16
"""So many updates of a GPU at most are under way before somebody reads whether they count."""


class Skipped:
    """Counts those in a row. On a GPU whether an update counts is a tensor, which is read later, so that the GPU never
    waits for its next update; what comes of it is the same."""

    def __init__(self, student: int, most: int) -> None:
        """most: in a row, before training ends. in_a_row: of the updates that were read."""
        self._student, self._most, self.in_a_row = student, most, 0
        self._unread: list[tuple[str, int, bool | Tensor]] = []

    def note(self, stage: str, nimg: int, finite: bool | Tensor) -> None:
        """finite: whether the update at `nimg` counts, a bool or a tensor []."""
        self._unread.append((stage, nimg, finite))

    @property
    def due(self) -> bool:
        """Whether reading costs nothing, or must not be put off any longer."""
        return len(self._unread) >= UNREAD or any(not isinstance(finite, Tensor) for *_, finite in self._unread)

    def read(self, metrics: list[Metric]) -> None:
        """Adds those that were left out to the metrics. Raises TrainingError where there are too many in a row."""
        noted, self._unread = self._unread, []
        tensors = [finite for *_, finite in noted if isinstance(finite, Tensor)]
        read = iter(torch.stack(tensors).tolist() if tensors else [])
        for stage, nimg, finite in noted:
            counts = next(read) if isinstance(finite, Tensor) else finite
            self.in_a_row = 0 if counts else self.in_a_row + 1
            if not counts:
                metrics.append(Metric(stage, nimg, "skipped", 1.0))
            if self.in_a_row > self._most:
                raise TrainingError(
                    f"student {self._student}: the gradient was not finite {self.in_a_row} times in a row, "
                    f"at {nimg} images in stage {stage}; lower the learning rates of this stage"
                )
