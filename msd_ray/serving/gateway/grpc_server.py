"""The contract's methods, and a gRPC server that has them."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

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
    """The service on a port, with health and reflection. Several may share the port of a machine."""

    def __init__(self, service: Service, tokens: Tokens, config: GatewayConfig) -> None:
        limits = service.limits
        self._config, self._health = config, Health(service, ("", NAME))
        self._server = grpc.aio.server(
            interceptors=[Guard(tokens)],
            maximum_concurrent_rpcs=4 * limits.concurrent
            + limits.waiting,  # calls that are just held open count here too
            options=[("grpc.max_receive_message_length", limits.request_bytes), *_OPTIONS, *_age(config, limits)],
        )
        pb_grpc.add_EnsembleServiceServicer_to_server(EnsembleRpc(service), self._server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, self._server)
        reflection.enable_server_reflection((NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    async def start(self) -> int:
        """Starts to listen; returns the port. Raises OSError if it is taken, UserError if the certificates are not
        valid."""
        address, tls = f"{self._config.host}:{self._config.port}", credentials(self._config)
        try:
            port = self._server.add_secure_port(address, tls) if tls else self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from None
        await self._server.start()
        await self._health.start()
        return int(port)

    async def stop(self) -> None:
        """Drains the server: callers are sent to other gateways, and requests may finish for `drain_seconds`."""
        await self._health.stop()
        await self._server.stop(self._config.drain_seconds)


def _age(config: GatewayConfig, limits: Limits) -> list[tuple[str, int]]:
    """Options: how long a connection may be used, give or take a tenth, and the time that requests then get to end."""
    if not config.connection_seconds:
        return []
    seconds = {"age": config.connection_seconds, "age_grace": limits.seconds + 5}
    return [(f"grpc.max_connection_{name}_ms", min(int(1000 * s), (1 << 31) - 1)) for name, s in seconds.items()]
