"""The figures that a trial reports, and whether more or less of each is better."""

from dataclasses import dataclass, fields
from typing import Literal

Mode = Literal["min", "max"]

METRICS: dict[str, Mode] = {
    "fid": "min",
    "kid": "min",
    "precision": "max",
    "recall": "max",
    "agreement": "max",
    "latency_ms": "min",
    "batch_latency_ms": "min",
    "parameters": "min",
    "active_parameters": "min",
    "total_images": "min",
    "flops": "min",
    "cpu_seconds": "min",
    "gpu_seconds": "min",
}
"""The metrics that a sweep may have, and whether more or less is better."""


@dataclass(frozen=True)
class Report:
    """The figures of an ensemble. None for a figure that is unknown.

    images: that each student was trained on. final: whether training is over. samples: the n of FID@n. latency_ms: to
    answer one request for one sample. batch_latency_ms: per sample, in batches of `evaluation.batch`. parameters: of
    all students. active_parameters: of those that one request asks. nfe: network evaluations per sample.

    Training, of all students together and as if no other trial had shared anything: total_images of the generators;
    flops, the teacher's included; cpu_seconds, the teacher's included; gpu_seconds: that students held a GPU.
    """

    images: int
    final: bool
    students: int
    samples: int
    fid: float | None
    kid: float | None
    precision: float | None
    recall: float | None
    agreement: float | None
    latency_ms: float
    batch_latency_ms: float
    parameters: int
    active_parameters: int
    nfe: int
    total_images: int
    flops: float | None
    cpu_seconds: float
    gpu_seconds: float


COLUMNS = {"trial", "state", "reason", "kept", "front", "said", *(f.name for f in fields(Report))}
"""The columns of trial tables beside the trials' choices."""


def metric_named(name: str) -> str | None:
    """The metric of that name, with or without its unit; None if there is none."""
    known = [m for m in METRICS if name in (m, m.removesuffix("_ms"), m.removesuffix("_seconds"))]
    return known[0] if known else None
