"""Certificates of the gRPC port."""

from pathlib import Path

import grpc

from msd_ray.errors import UserError
from msd_ray.serving.core.config import FrontConfig


def credentials(config: FrontConfig) -> grpc.ServerCredentials | None:
    """Those that the config names, read now; None for none. Raises UserError where a file cannot be read."""
    if not config.tls_cert:
        return None
    pair = _read(config.tls_key), _read(config.tls_cert)
    ca = _read(config.tls_client_ca) if config.tls_client_ca else None
    return grpc.ssl_server_credentials([pair], root_certificates=ca, require_client_auth=ca is not None)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
