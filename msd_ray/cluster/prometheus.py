"""The driver's metrics for Prometheus, through Ray's metrics agent. The dashboard in deploy/grafana shows them."""

import math
from typing import Any

from ray.util.metrics import Counter, Gauge

from msd_ray.cluster.progress import Progress

COUNTED = {
    "started": "starts",
    "resumed": "resumptions",
    "died": "deaths",
    "preempted": "preemptions",
    "failed": "failures",
    "done": "completions",
}


class RunMetrics:
    """One set per driver; the label `student` is a student's name."""

    def __init__(self) -> None:
        student = ("student",)
        self._images = Gauge("msd_ray_student_images", "images that the student's generator has seen", student)
        self._rate = Gauge("msd_ray_student_images_per_second", "of the segment under way, else of the last", student)
        self._loss = Gauge("msd_ray_student_loss", "of its generator, or what it is trained by", student)
        self._left = Gauge("msd_ray_student_seconds_left", "of training, at its present speed", student)
        self._waited = Gauge("msd_ray_student_waited", "share of its last segment spent waiting for a teacher", student)
        self._fid = Gauge("msd_ray_student_fid", "FID on its own classes, over few samples", student)
        self._flops = Gauge("msd_ray_student_flops", "operations per second of its last segment", student)
        self._mfu = Gauge("msd_ray_student_mfu", "share of what its GPU can do in bf16", student)
        self._memory = Gauge("msd_ray_student_gpu_bytes", "the most that it held on its GPU lately", student)
        self._slots = Gauge("msd_ray_slots", "slots that are up")
        self._counters = {name: Counter(f"msd_ray_student_{name}", tag_keys=student) for name in COUNTED.values()}

    def event(self, kind: str, facts: dict[str, Any]) -> None:
        if kind in COUNTED:
            self._counters[COUNTED[kind]].inc(tags={"student": facts["student"]})

    def slots(self, up: int) -> None:
        self._slots.set(up)

    def progress(self, student: str, progress: Progress, images: int) -> None:
        """images: of the student's whole training."""
        tags = {"student": student}
        if progress.images_per_second:
            self._left.set((images - progress.nimg) / progress.images_per_second, tags)
        if math.isfinite(progress.loss):
            self._loss.set(progress.loss, tags)
        self._images.set(progress.nimg, tags)
        self._rate.set(progress.images_per_second, tags)
        self._waited.set(progress.waited, tags)
        if used := progress.used:
            self._flops.set(used.flops, tags)
            self._memory.set(used.memory, tags)
            self._mfu.set(used.mfu or 0.0, tags)
        if progress.fid is not None:
            self._fid.set(progress.fid, tags)
