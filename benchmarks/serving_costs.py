"""What the service costs beside its images: routing, and Ray's own processes."""

import time

import psutil
from common import spread

from msd_ray.serving.client.messages import request_of
from msd_ray.serving.gateway.proto_messages import image_request_of
from msd_ray.serving.generated import ensemble_pb2 as pb
from msd_ray.serving.service.request import Limits
from msd_ray.serving.service.routing import part_requests, wanted_of
from msd_ray.serving.service.versions import Traffic, Version


def routing_us(version: Version, images: int, repeats: int = 5, loops: int = 400) -> dict[str, float | int | None]:
    """Microseconds from the bytes of a request for so many images to requests to parts for students."""
    classes = [i % len(version.labels) for i in range(images)]
    raw = request_of(classes, classes, "png", "").SerializeToString()
    traffic, limits = Traffic((version,), (1.0,)), Limits()
    took = []
    for _ in range(repeats):
        begin = time.perf_counter()
        for _ in range(loops):
            wanted = wanted_of(image_request_of(pb.GenerateRequest.FromString(raw), limits), traffic)
            part_requests(wanted, {one.key: version.prepared(one.condition) for one in wanted})
        took.append(1e6 * (time.perf_counter() - begin) / loops)
    return spread(took)


def idle_cpu_percent(seconds: float = 3.0) -> float:
    """Of one CPU: what the processes that this one started, and those that they did, take together meanwhile."""
    processes = psutil.Process().children(recursive=True)
    before = sum(map(_cpu, processes))
    time.sleep(seconds)
    return 100 * (sum(_cpu(p) for p in processes if p.is_running()) - before) / seconds


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
