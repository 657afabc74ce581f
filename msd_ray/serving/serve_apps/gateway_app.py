"""The gateway's replicas, which callers reach: gRPC on a port of their own, HTTP through Serve's proxy."""

import asyncio
import logging
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.exceptions import RayServeException

from msd_ray.serving.gateway import access, audit
from msd_ray.serving.gateway.grpc_server import RpcServer
from msd_ray.serving.gateway.http import http_app
from msd_ray.serving.serve_apps.own_students import OwnStudents
from msd_ray.serving.serve_apps.request_metrics import RequestMetrics
from msd_ray.serving.serve_apps.student_handles import StudentHandles
from msd_ray.serving.serve_apps.version_registry import PERIOD, ask_registry, find_registry
from msd_ray.serving.service.config import GatewayConfig, Placement, StudentConfig
from msd_ray.serving.service.request import Limits
from msd_ray.serving.service.service import Service
from msd_ray.serving.service.tokens import Tokens

LOG = logging.getLogger(__name__)
QUIET = 2.0  # seconds after which students that made nothing are probed


@serve.ingress()
class Gateway:
    """The deployment. It is ready once it knows the traffic, and drains before it ends."""

    async def __init__(  # type: ignore[misc]
        self, config: dict[str, Any], limits: dict[str, Any], students: dict[str, Any], placement: Placement
    ) -> None:
        said = GatewayConfig(**config)
        access.send_to(
            RequestMetrics(),
            *([access.on_stderr()] if said.access_log else []),
            *([audit.into(said.audit)] if said.audit else []),
        )
        of_students = StudentConfig(**students)
        self._asking: OwnStudents | StudentHandles = (
            OwnStudents(of_students)
            if placement == "gateway"
            else StudentHandles(placement == "multiplexed", of_students)
        )
        self._tokens = Tokens(said.tokens)
        self._service = Service(self._asking, Limits(**limits), of_students.threads)
        self._config = said
        self._server = RpcServer(self._service, self._tokens, said)
        self._registry = await find_registry()
        while self._service.traffic is None:
            await self._look()
            await asyncio.sleep(0 if self._service.traffic else PERIOD)
        self._following = asyncio.create_task(self._follow())
        self._probing = asyncio.create_task(self._probe())
        await self._server.start()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return http_app(self._service, self._tokens, self._config.origins, self._config.grpc_web)

    async def check_health(self) -> None:
        """Raises RuntimeError if this gateway no longer follows the registry of versions or the students, or cannot
        keep its port open, or if students in its own process make nothing any more, so that Serve replaces it."""
        self._asking.check()
        if self._following.done() or self._probing.done() or self._server.staying_open.done():
            raise RuntimeError("this gateway does not follow the registry or the students any more, or lost its port")

    async def __del__(self) -> None:
        await self._server.stop()
        self._following.cancel()
        self._probing.cancel()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            await self._look()

    async def _probe(self) -> None:
        while True:
            await self._service.probe(QUIET)
            if self._service.traffic:
                self._asking.report(self._service.traffic, self._service.readiness)
            await asyncio.sleep(QUIET)

    async def _look(self) -> None:
        """Switches to new traffic once all its students can be reached."""
        traffic = await ask_registry(self._registry)
        if traffic is None or traffic == self._service.traffic:
            return
        try:
            await self._asking.reach(traffic.versions)
        except RayServeException as error:
            LOG.warning("the registry of versions names students that are not deployed: %s", error)
            return
        await self._service.serve(traffic)
        self._asking.keep(traffic.versions)
