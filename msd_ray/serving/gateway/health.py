"""Health for probes, over gRPC (grpc.health.v1) and HTTP. It has two questions, since their answers need different
reactions: whether this process works, or must be replaced, and whether the whole service does.
"""

import asyncio
from typing import Any

from grpc_health.v1 import health, health_pb2

from msd_ray.serving.service.service import Service

SERVICE = "msd.v1.EnsembleService"  # with /part-N behind it the name of one part's students
GATEWAY = "msd.v1.gateway"  # the name by which grpc.health.v1 is asked for this process alone
PERIOD = 0.5  # seconds between looks
_STATUS = health_pb2.HealthCheckResponse


def whole(service: Service) -> dict[str, Any]:
    """Whether all students that get traffic are ready; if not, which are not."""
    found = service.readiness.not_ready(service.traffic) if service.traffic else []
    if service.traffic and not found:
        return {"status": "SERVING"}
    numbers = [(one.version, i) for one in found for i in one.version.students_of(one.part)]
    return {"status": "NOT_SERVING", "not_ready": [{"version": v.name, "student": i} for v, i in numbers]}


def of_parts(service: Service) -> dict[int, str]:
    """Of each part of a version that gets traffic, by its number, whether its students are ready in all of them."""
    if not service.traffic:
        return {}
    parts = {part for version in service.traffic.served for part in range(len(version.parts))}
    away = {one.part for one in service.readiness.not_ready(service.traffic)}
    return {part: "NOT_SERVING" if part in away else "SERVING" for part in parts}


def gateway(service: Service) -> dict[str, Any]:
    """Whether this process knows the versions, so that it can route requests to the students that are ready."""
    return {"status": "SERVING" if service.traffic else "NOT_SERVING"}


class Health:
    """The servicer of grpc.health.v1, kept up to date. names: those that stand for the whole service."""

    def __init__(self, service: Service, names: tuple[str, ...]) -> None:
        self._service, self._names, self.servicer = service, names, health.aio.HealthServicer()
        self._said: dict[str, str] = {}

    async def start(self) -> None:
        await self._tell()
        self._telling = asyncio.create_task(self._keep_telling())

    async def stop(self) -> None:
        """Answers all probes from now on that callers should use another gateway."""
        self._telling.cancel()
        await self.servicer.enter_graceful_shutdown()

    async def _keep_telling(self) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            await self._tell()

    async def _tell(self) -> None:
        """Parts that there are no more are unknown from then on."""
        parts = {f"{SERVICE}/part-{part}": status for part, status in of_parts(self._service).items()}
        now = {
            **dict.fromkeys(self._said, "SERVICE_UNKNOWN"),
            **dict.fromkeys(self._names, whole(self._service)["status"]),
            **parts,
            GATEWAY: gateway(self._service)["status"],
        }
        for name, status in now.items():
            if self._said.get(name) != status:
                self._said[name] = status
                await self.servicer.set(name, _STATUS.ServingStatus.Value(status))
