"""Metrics for Prometheus, through Ray's metrics agent."""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ray.serve.metrics import Counter, Gauge, Histogram

from msd_ray.serving.gateway.access import Call
from msd_ray.serving.protocol.refusal import Refusal
from msd_ray.serving.service.readiness import Readiness
from msd_ray.serving.service.routing import PartRequest
from msd_ray.serving.service.service import StudentImage
from msd_ray.serving.service.versions import Traffic

MILLISECONDS = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 30000.0]
IMAGES = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]


class RequestMetrics(logging.Handler):
    """One set per gateway: counts the entries of the access log."""

    def __init__(self) -> None:
        super().__init__()
        keys = _keys("protocol", "method")
        self._requests = Counter("msd_ray_serve_requests", "requests", _keys("protocol", "method", "code"))
        self._milliseconds = Histogram("msd_ray_serve_request_ms", "of a request", MILLISECONDS, keys)

    def emit(self, record: logging.LogRecord) -> None:
        call: Call = record.__dict__["call"]
        tags = {"protocol": call.protocol, "method": call.method}
        self._requests.inc(1, {**tags, "code": call.code})
        self._milliseconds.observe(call.milliseconds, tags)


class GatewayMetrics:
    """One set per gateway; the label `version` is an ensemble's."""

    def __init__(self) -> None:
        self._requests = Counter(
            "msd_ray_serve_part_requests", "requests to parts to students", _keys("version", "part", "code")
        )
        self._milliseconds = Histogram(
            "msd_ray_serve_part_request_ms", "of a request to a part", MILLISECONDS, _keys("version", "part")
        )
        self._retries = Counter("msd_ray_serve_retries", "requests to parts sent again as a replica died", ("version",))
        self._ready = Gauge("msd_ray_serve_ready", "1 where a part's students are ready", _keys("version", "part"))

    @contextmanager
    def part_request(self, asked: PartRequest) -> Iterator[None]:
        """Counts a request to a part, which runs in this block."""
        tags, began, code = {"version": asked.version.name, "part": str(asked.part)}, time.monotonic(), "OK"
        try:
            yield
        except Refusal as refusal:
            code = refusal.kind
            raise
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        finally:
            self._requests.inc(1, {**tags, "code": code})
            self._milliseconds.observe(1000 * (time.monotonic() - began), tags)

    def report(self, traffic: Traffic, readiness: Readiness) -> None:
        """Says which students are ready."""
        for version in traffic.versions:
            for part, of in enumerate(version.parts):
                self._ready.set(float(not readiness.why(of)), {"version": version.name, "part": str(part)})

    def retried(self, version: str) -> None:
        self._retries.inc(1, {"version": version})


class ReplicaRequestMetrics:
    """One set per part in a replica; the label `student_version` is the part's."""

    def __init__(self, version: str) -> None:
        self._tags, keys = {"student_version": version}, _keys("student_version")
        self._images = Counter("msd_ray_serve_images", "images made", keys)
        self._refused = Counter("msd_ray_serve_refusals", "requests to parts refused", _keys("student_version", "code"))
        self._queue = Histogram("msd_ray_serve_queue_ms", "an image's wait at its student", MILLISECONDS, keys)
        self._compute = Histogram("msd_ray_serve_compute_ms", "an image's evaluation", MILLISECONDS, keys)
        self._batch = Histogram("msd_ray_serve_batch", "images of an image's evaluation", IMAGES, keys)
        self._waiting = Gauge("msd_ray_serve_waiting", "images that wait at a student", keys)

    def made(self, made: Sequence[StudentImage], waiting: int) -> None:
        self._images.inc(len(made), self._tags)
        self._waiting.set(waiting, self._tags)
        for image in made:
            self._queue.observe(image.queue_ms, self._tags)
            self._compute.observe(image.compute_ms, self._tags)
            self._batch.observe(image.batch, self._tags)

    def refused(self, code: str) -> None:
        self._refused.inc(1, {**self._tags, "code": code})


def _keys(*names: str) -> Any:
    """Ray annotates the keys of tags as a tuple of exactly one."""
    return names
