"""Serve's own gRPC proxy as another way in to the students that the service runs, for benchmarks/serving.py.

It listens on every interface, since it knows no other way, so it is started only where that is asked for. To be
imported after `msd_ray.cluster.connect.listen_on_loopback`, since it imports ray.
"""

from typing import Any

from ray import serve
from ray.serve.config import HTTPOptions, gRPCOptions
from serving_division import divided

from msd_ray.serving.serve_apps.app_names import part_app
from msd_ray.serving.service.gatherer import PartCall
from msd_ray.serving.service.versions import Version

APP = "proxy"
QUIET = {"log_level": "WARNING", "enable_access_log": False}
METADATA = (("application", APP),)
_METHODS = "msd_ray.serving.generated.ensemble_pb2_grpc.add_EnsembleServiceServicer_to_server"


def open_proxy(port: int, http_port: int) -> None:
    """Starts Serve with its gRPC proxy; the service then finds it running."""
    serve.start(
        proxy_location="EveryNode",
        http_options=HTTPOptions(host="127.0.0.1", port=http_port),
        grpc_options=gRPCOptions(port=port, grpc_servicer_functions=[_METHODS]),
        logging_config=QUIET,
    )


def route(version: Version) -> None:
    """Lets the proxy reach the students of a version that is served."""
    router = serve.deployment(max_ongoing_requests=512, ray_actor_options={"num_cpus": 0.1})(Router)
    serve.run(
        router.bind(version.uri, version.owners, version.parts), name=APP, route_prefix=f"/{APP}", logging_config=QUIET
    )


class Router:
    """The deployment behind the proxy: as bare as `serving_bare.Bare`, with Serve's handles as they are by default."""

    def __init__(self, uri: str, owners: tuple[int, ...], parts: tuple[str, ...]) -> None:
        self._uri, self._owners, self._of = uri, owners, parts
        self._parts = [serve.get_app_handle(part_app(part)) for part in parts]

    async def Generate(self, request: Any) -> Any:  # noqa: N802
        return await divided(request, self._owners, self._made)

    async def _made(self, part: int, pairs: list[tuple[int, int]]) -> Any:
        call = PartCall(self._uri, part, self._of[part], pairs, "png", 600.0)
        return (await self._parts[part].make.remote([call])).answers[0]
