"""A service on a Ray cluster, from its start to its end."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from msd_ray.cluster.connect import connected, listen_on_loopback
from msd_ray.errors import UserError
from msd_ray.runs.directory import ensemble_folder
from msd_ray.serving.core.catalogue import Traffic
from msd_ray.serving.core.config import FrontConfig, ServeConfig
from msd_ray.serving.core.describe import describe

if TYPE_CHECKING:
    from msd_ray.serving.graph.operation import Operation

Note = Callable[[str], None]


@contextmanager
def serving(uri: str, config: ServeConfig, address: str | None, note: Note) -> Iterator[str]:
    """An ensemble, or a run's, that answers while this block lasts. note: takes lines on how it goes. Yields the
    address of the Ray cluster.

    Raises UserError where there is no ensemble, a port is taken or the cluster has no room, CorruptError where the
    ensemble is damaged.
    """
    version = describe(ensemble_folder(uri).uri)
    if not address:
        refuse_taken(config.front)
    listen_on_loopback(address)
    with connected(address) as where:
        import ray
        from ray import serve

        from msd_ray.serving.graph import deploy
        from msd_ray.serving.graph.placement import multiplexed

        shared = multiplexed(version, config)
        note(f"{where}: {len(version.parts)} parts, {'multiplexed' if shared else 'dedicated'}")
        start_serve(config.front)
        try:
            _deployed(lambda: deploy.deploy_students(version, config, shared))
            traffic = Traffic((version,), (1.0,))
            deploy.deploy_ledger(traffic, config, shared)
            _deployed(lambda: deploy.deploy_front(traffic, config, shared))
            yield str(ray.get_runtime_context().gcs_address)
        finally:
            deploy.stop_front()  # first, so that what is under way still finds its students
            serve.shutdown()  # type: ignore[no-untyped-call]


@contextmanager
def attached(address: str | None) -> Iterator["Operation"]:
    """A service that runs, on the cluster at the address or RAY_ADDRESS. Raises UserError where there is none."""
    address = address or os.environ.get("RAY_ADDRESS")
    if not address:
        raise UserError("say which cluster serves: --address, which `msd-ray serve` printed, or RAY_ADDRESS")
    if address.startswith("127.0.0.1"):
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # a cluster on loopback calls back, and only there
    with connected(address):
        from msd_ray.serving.graph.operation import Operation

        yield Operation()


def start_serve(front: FrontConfig) -> None:
    """Serve's controller and its HTTP proxy on each node. Both stay as they are where they run already."""
    from ray import serve
    from ray.serve.config import HTTPOptions

    options = HTTPOptions(
        host=front.host,
        port=front.http_port,
        ssl_certfile=front.tls_cert or None,
        ssl_keyfile=front.tls_key or None,
        ssl_ca_certs=front.tls_client_ca or None,
    )
    serve.start(proxy_location="EveryNode", http_options=options, logging_config={"log_level": "WARNING"})


def refuse_taken(front: FrontConfig) -> None:
    """Raises UserError where something listens on a port already: fronts share theirs, so nobody else would tell."""
    for key, port in (("--port", front.port), ("--http-port", front.http_port)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((front.host, port))
            except OSError as error:
                raise UserError(
                    f"cannot listen on {front.host}:{port}: {error.strerror}; choose another {key}"
                ) from None


def _deployed(deploy: Callable[[], None]) -> None:
    try:
        deploy()
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"Serve cannot start it: {reason[:300]}") from None
