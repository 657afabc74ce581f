"""Rows of the table: a sampler run, timed and scored in this process; what rows are called."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from msd_ray.data import Samples
from msd_ray.evaluation.scores import Judge
from msd_ray.evaluation.table import Costs, Row

Sampler = Callable[[Tensor, list[int]], Tensor]
"""(classes asked for [B], one seed per sample) -> samples [B, ...]"""

WARM_UP = 8
NAMED_CLASSES = 6


def sampler_row(
    name: str, judge: Judge, sample: Sampler, classes: Sequence[int], costs: Costs | None = None
) -> tuple[Row, Samples]:
    """The row of one sampler and the `judge.config.samples` samples it was judged by.

    The i-th sample has seed i and the class classes[i % len(classes)]. ms_per_image is wall time after a small warm-up.
    """
    n, batch = judge.config.samples, judge.config.batch
    conditions = torch.tensor(list(classes))[torch.arange(n) % len(classes)]
    sample(conditions[:WARM_UP], list(range(min(n, WARM_UP))))
    begin = time.perf_counter()
    parts = [sample(conditions[i : i + batch], list(range(i, min(i + batch, n)))) for i in range(0, n, batch)]
    x = torch.cat([part.detach().cpu() for part in parts])  # waits for a GPU, so it belongs to the time
    seconds = time.perf_counter() - begin
    row = Row(name, judge.score(x, conditions), **asdict(costs or Costs()), ms_per_image=1000 * seconds / n)
    return row, Samples(x, conditions)


def student_name(student: int, owners: Sequence[int], labels: Sequence[str]) -> str:
    """Of a student's row, with its classes. owners: class -> student. labels: of the classes."""
    return f"student {student} ({_class_names([labels[c] for c, owner in enumerate(owners) if owner == student])})"


def _class_names(labels: list[str]) -> str:
    shown = ", ".join(labels[:NAMED_CLASSES])
    if len(labels) > NAMED_CLASSES:
        return f"{len(labels)} classes: {shown}, ..."
    return f"{'class' if len(labels) == 1 else 'classes'} {shown}"
