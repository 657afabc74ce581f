"""The losses of ADM in bf16 beside those in fp32 over many updates of a small network: whether rounding leads away.

What another seed's run differs by in fp32 says what a difference is worth: two runs part ways whatever the cause.
"""

from collections.abc import Callable

from gpu_rows import Figures

from msd_ray.training.metrics import BESIDE
from msd_ray.training.student_trainer import StudentTrainer

POINTS = 20
Curve = dict[str, list[float]]


def curves(make: Callable[[str, int, int], StudentTrainer], updates: int, batch: int) -> Figures:
    """make: a trainer for a precision, a seed, and so many images between two points of a curve.

    `difference`: mean over the points of |a - b| / |b|, b in fp32 with the first seed."""
    every = max(1, updates // POINTS)
    runs = {
        name: losses(make(precision, seed, every * batch), every * POINTS * batch)
        for name, precision, seed in (("fp32", "fp32", 0), ("bf16", "bf16", 0), ("fp32, other seed", "fp32", 1))
    }
    fp32 = runs["fp32"]
    return {
        "updates": every * POINTS,
        "batch": batch,
        "difference": {
            name: {loss: apart(run[loss], fp32[loss]) for loss in fp32} for name, run in runs.items() if run is not fp32
        },
        "curves": {name: {loss: [round(v, 5) for v in run[loss]] for loss in run} for name, run in runs.items()},
    }


def losses(trainer: StudentTrainer, images: int) -> Curve:
    """Of each loss, its means between two points."""
    found: Curve = {}
    for m in trainer.advance(images):
        if m.name not in BESIDE:
            found.setdefault(m.name, []).append(m.value)
    return found


def apart(values: list[float], others: list[float]) -> float:
    return round(sum(abs(a - b) / abs(b) for a, b in zip(values, others, strict=True)) / len(values), 5)
