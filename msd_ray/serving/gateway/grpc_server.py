"""The contract's methods, and a gRPC server that has them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from msd_ray.errors import named
from msd_ray.serving.gateway.access import CURRENT
from msd_ray.serving.gateway.health import Health
from msd_ray.serving.gateway.interceptor import Context, Guard
from msd_ray.serving.gateway.proto_messages import ensemble_of, image_of, image_request_of, students_of
from msd_ray.serving.gateway.tls import credentials
from msd_ray.serving.generated import ensemble_pb2 as pb
from msd_ray.serving.generated import ensemble_pb2_grpc as pb_grpc
from msd_ray.serving.service.config import GatewayConfig
from msd_ray.serving.service.request import ImageRequest, Limits
from msd_ray.serving.service.routing import version_named
from msd_ray.serving.service.service import Service
from msd_ray.serving.service.tokens import Caller, Tokens

_OPTIONS = (
    ("grpc.so_reuseport", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # otherwise our client's pings would end a long call
)
LISTENERS = 8
"""Servers of a gateway that share its port. grpc.aio takes one call of each when the event loop comes round: with a
single one, most calls above what the gateway can do would wait in grpc, out of its queue's sight."""
FEWEST = 64
"""Calls that may wait in grpc for each listener, whatever the limits."""
LOOK = 0.2
"""Seconds between looks whether grpc's server still runs."""
LOG = logging.getLogger(__name__)
NAME = pb.DESCRIPTOR.services_by_name["EnsembleService"].full_name


class EnsembleRpc(pb_grpc.EnsembleServiceServicer):
    """Each method raises Refusal, which `Guard` turns into a status."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:  # noqa: N802
        image_request, caller = self._asked(request)
        pictures = await self._service.generate(image_request, context.time_remaining(), caller)
        return pb.GenerateResponse(images=map(image_of, pictures))

    async def GenerateStream(self, request: pb.GenerateRequest, context: Context) -> AsyncIterator[pb.Image]:  # noqa: N802
        image_request, caller = self._asked(request)
        async with aclosing(self._service.stream(image_request, context.time_remaining(), caller)) as pictures:
            async for picture in pictures:
                yield image_of(picture)

    def _asked(self, request: pb.GenerateRequest) -> tuple[ImageRequest, Caller]:
        call = CURRENT.get()
        call.request = image_request_of(request, self._service.limits)
        return call.request, call.caller

    async def ListStudents(self, request: pb.ListStudentsRequest, context: Context) -> pb.ListStudentsResponse:  # noqa: N802
        return students_of(version_named(self._service.known_traffic(), request.version), self._service.readiness)

    async def GetEnsemble(self, request: pb.GetEnsembleRequest, context: Context) -> pb.GetEnsembleResponse:  # noqa: N802
        return ensemble_of(self._service)


class RpcServer:
    """The service on a port, with health and reflection. Several may share the port of a machine. The system spreads
    connections over its listeners; a Unix socket belongs to the first."""

    def __init__(self, service: Service, tokens: Tokens, config: GatewayConfig) -> None:
        self._service, self._tokens, self._config = service, tokens, config
        self._health = Health(service, ("", NAME))

    async def start(self) -> int:
        """Starts to listen; returns the port. Raises OSError if it is taken, UserError if the certificates are not
        valid."""
        first, port = await self._opened(self._config.port, self._config.socket)
        self._servers = [first, *[(await self._opened(port))[0] for _ in range(LISTENERS - 1)]]
        self.staying_open = asyncio.create_task(self._stay_open(port))
        await self._health.start()
        return port

    async def stop(self) -> None:
        """Drains the server: callers are sent to other gateways, and requests may finish for `drain_seconds`."""
        self.staying_open.cancel()
        await self._health.stop()
        await asyncio.gather(*(server.stop(self._config.drain_seconds) for server in self._servers))

    async def _opened(self, port: int, socket: str = "") -> tuple[grpc.aio.Server, int]:
        address, tls, server = self._config.address(port), credentials(self._config), self._made()
        try:
            port = server.add_secure_port(address, tls) if tls else server.add_insecure_port(address)
            if socket:
                address = f"unix:{socket}"
                server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from None
        await server.start()
        return server, port

    async def _stay_open(self, port: int) -> None:
        await asyncio.gather(*(self._listen(number, port) for number in range(LISTENERS)))

    async def _listen(self, number: int, port: int) -> None:
        """Opens the port again whenever that listener ends by an error of its own: a call whose method is not UTF-8 is
        enough, and needs no token. Its other callers get CANCELLED, which our client tries again. (Without a time
        grpc would wait until the connection of that call is closed.)"""
        while True:
            try:
                await self._servers[number].wait_for_termination(LOOK)
            except Exception as error:
                LOG.error("gRPC's server ended by %s; another one takes its place", named(error))
                self._servers[number], _ = await self._opened(port, self._config.socket if number == 0 else "")

    def _made(self) -> grpc.aio.Server:
        limits = self._service.limits
        server = grpc.aio.server(
            interceptors=[Guard(self._tokens)],
            maximum_concurrent_rpcs=4 * limits.concurrent + limits.waiting,  # those just held open count here too
            options=[
                ("grpc.max_receive_message_length", limits.request_bytes),
                *_OPTIONS,
                *_age(self._config, limits),
                *_pending(limits),
            ],
        )
        pb_grpc.add_EnsembleServiceServicer_to_server(EnsembleRpc(self._service), server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, server)
        reflection.enable_server_reflection((NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        return server


def _age(config: GatewayConfig, limits: Limits) -> list[tuple[str, int]]:
    """Options: how long a connection may be used, give or take a tenth, and the time that requests then get to end."""
    if not config.connection_seconds:
        return []
    seconds = {"age": config.connection_seconds, "age_grace": limits.seconds + 5}
    return [(f"grpc.max_connection_{name}_ms", min(int(1000 * s), (1 << 31) - 1)) for name, s in seconds.items()]


def _pending(limits: Limits) -> list[tuple[str, int]]:
    """Options: calls that may wait in grpc for each listener. Above that grpc ends some at random, and from twice as
    many on all, with CANCELLED. Its own limit is 1000, which is seconds of work; with few, callers that ask together
    over few connections would be refused though the gateway has room."""
    most = max(FEWEST, limits.waiting // 2)
    name = "grpc.server.max_pending_requests"
    return [(name, most), (f"{name}_hard_limit", 2 * most)]
