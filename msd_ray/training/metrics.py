"""The curves that a trainer logs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from msd_ray.training.process_group import ALONE, ProcessGroup


@dataclass(frozen=True)
class Metric:
    """One value on a curve. nimg: images seen when it was taken."""

    stage: str
    nimg: int
    name: str
    value: float


BROKEN_IMAGE = "broken_image"
"""What the index of a real image that was skipped is logged as."""
_COSTS = ("wall_seconds", "cpu_seconds", "teacher_cpu_seconds", "teacher_wait_seconds", "first_update_seconds")
_USED = ("tflops", "mfu", "gpu_memory_gb")
BESIDE = (*_COSTS, *_USED, "skipped", "unmeasured", BROKEN_IMAGE)
"""The names of curves other than losses and FIDs."""


def newest_loss(metrics: Sequence[Metric]) -> float:
    """The first of the newest losses that were logged together; NaN if there is none. Does not wait for a thread that
    appends meanwhile."""
    loss, point = float("nan"), None
    for m in reversed(metrics):
        if m.name in BESIDE or m.name.startswith("fid@"):
            continue
        if point not in (None, (m.stage, m.nimg)):
            break
        loss, point = m.value, (m.stage, m.nimg)
    return loss


class Averages:
    """Running means of named scalars between two log points; kept as tensors, so that nothing waits for a GPU."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int | Tensor] = {}

    def add(self, parts: dict[str, Tensor], counts: bool | Tensor = True) -> None:
        """counts: whether they do. A bool [] on their device is not waited for."""
        if counts is False:
            return
        for name, value in parts.items():
            value = torch.where(counts, value, 0) if isinstance(counts, Tensor) else value
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + counts

    def take(self, stage: str, nimg: int, group: ProcessGroup = ALONE) -> list[Metric]:
        """The means since the last call over all processes of a group, which have added the same names; also forgets
        them."""
        if not self._sums:
            return []
        sums = torch.stack(list(self._sums.values()))
        counts = torch.stack([torch.as_tensor(n, dtype=sums.dtype, device=sums.device) for n in self._counts.values()])
        group.sum([sums, counts])
        means = zip(self._sums, sums.tolist(), counts.tolist(), strict=True)
        rows = [Metric(stage, nimg, name, total / count) for name, total, count in means if count]
        self.__init__()  # type: ignore[misc]
        return rows
