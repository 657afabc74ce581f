"""A service on a Ray cluster, from its start to its end."""

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from msd_ray.cluster.connect import connected, listen_on_loopback
from msd_ray.errors import UserError
from msd_ray.export.onnx_model import require_onnx
from msd_ray.runs.run_directory import ensemble_folder
from msd_ray.serving.service.config import GatewayConfig, ServeConfig
from msd_ray.serving.service.deny import function_of
from msd_ray.serving.service.ensemble_facts import describe
from msd_ray.serving.service.tokens import callers_of
from msd_ray.serving.service.versions import Traffic

if TYPE_CHECKING:
    from msd_ray.serving.serve_apps.updates import Operation

Note = Callable[[str], None]


@contextmanager
def serving(uri: str, config: ServeConfig, address: str | None, note: Note) -> Iterator[str]:
    """Serves an ensemble, or a run's, during this block. note: takes lines of progress. Yields the address of the Ray
    cluster. On an existing cluster everything else stays as it is.

    Raises UserError if there is no ensemble, a file, a library or a function of the limits is missing, a port is taken,
    or the cluster has no room or serves an ensemble already; CorruptError if the ensemble is damaged.
    """
    version = describe(ensemble_folder(uri).uri)
    if config.students.engine == "onnxruntime":
        require_onnx()
    function_of(config.limits.deny, "deny")  # which gateways call
    function_of(config.limits.withhold, "withhold")
    address = address or os.environ.get("RAY_ADDRESS")
    if not address:
        refuse_missing(config.gateway)
        refuse_taken(config.gateway)
    listen_on_loopback(address)
    with connected(address) as where:
        import ray

        from msd_ray.serving.serve_apps import deploy
        from msd_ray.serving.serve_apps.serve_options import placement, with_room

        _hush()
        placed = placement(version, config)
        config = with_room(version, config) if placed == "multiplexed" else config
        note(f"{where}: {len(version.parts)} parts, {placed if placed != 'gateway' else 'in the gateways'}")
        deploy.start_serve(config)
        try:
            deploy.deploy_students(version, config, placed)
            traffic = Traffic((version,), (1.0,))
            deploy.deploy_registry(traffic, config, placed)
            deploy.deploy_gateway(traffic, config, placed)
            yield str(ray.get_runtime_context().gcs_address)
        finally:
            deploy.end(config.gateway.drain_seconds)


@contextmanager
def attached(address: str | None) -> Iterator["Operation"]:
    """A running service, on the cluster at the address or RAY_ADDRESS. What Ray prints of the cluster in this block
    goes to standard error. Raises UserError if there is none."""
    address = address or os.environ.get("RAY_ADDRESS")
    if not address:
        raise UserError("say which cluster serves: --address, which `msd-ray serve` printed, or RAY_ADDRESS")
    if address.startswith("127.0.0.1"):  # a cluster that `msd-ray serve` started
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # it calls back, and only there
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray turns it on in the starting process only
    with redirect_stdout(sys.stderr), connected(address):
        from msd_ray.serving.serve_apps.updates import Operation

        _hush()
        yield Operation()


def refuse_missing(gateway: GatewayConfig) -> None:
    """Raises UserError if a file that gateways need cannot be read, or has tokens that are not valid, or if the audit
    log cannot be written."""
    for path in filter(None, (gateway.tls_cert, gateway.tls_key, gateway.tls_client_ca, gateway.tokens)):
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        if path == gateway.tokens:
            callers_of(content.decode(errors="replace").splitlines())
    try:
        open(gateway.audit or os.devnull, "a").close()
    except OSError as error:
        raise UserError(f"cannot write {gateway.audit}: {error.strerror}") from None


def refuse_taken(gateway: GatewayConfig) -> None:
    """Raises UserError if another process listens on a port: gateways share theirs, so this is the only check."""
    http = () if gateway.tls_client_ca else (("--http-port", gateway.http_port),)
    for key, port in (("--port", gateway.port), *http):
        with socket.socket(socket.AF_INET6 if ":" in gateway.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((gateway.host, port))
            except OSError as error:
                raise UserError(
                    f"cannot listen on {gateway.address(port)}: {error.strerror}; choose another {key}"
                ) from None


def _hush() -> None:
    """Silences Serve's messages about its every step; msd_ray reports those that matter."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
