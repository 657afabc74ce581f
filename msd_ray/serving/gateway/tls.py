"""Certificates of the gRPC port, which may be replaced while it is open."""

import logging
import ssl
from pathlib import Path
from typing import Any

import grpc

from msd_ray.errors import UserError
from msd_ray.serving.service.config import GatewayConfig

LOG = logging.getLogger(__name__)
Contents = tuple[bytes, bytes, bytes | None]


def credentials(config: GatewayConfig) -> grpc.ServerCredentials | None:
    """Credentials from the config's files, which are read again for every connection; None without files.

    Raises UserError if a file cannot be read, or the files do not belong together.
    """
    if not config.tls_cert:
        return None
    files = _Files(config)
    return grpc.dynamic_ssl_server_credentials(files.first, files.changed, bool(config.tls_client_ca))


class _Files:
    """first: the certificates as they are at the start."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config, self._known = config, _checked(config)
        self.first = _configuration(self._known)

    def changed(self) -> Any:
        """The certificates if they have changed. If the new ones are not valid, such as a certificate whose key is not
        yet written, the old ones stay in use."""
        try:
            found = _checked(self._config)
        except UserError as error:
            LOG.error("%s; the certificates read before stay in use", error)
            return None
        if found == self._known:
            return None
        self._known = found
        return _configuration(found)


def _checked(config: GatewayConfig) -> Contents:
    """Key, certificate and authority. Raises UserError as `credentials`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    read = _read(config.tls_key), _read(config.tls_cert), _read(config.tls_client_ca) if config.tls_client_ca else None
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key, password="")  # "", as it would ask at the terminal
        if config.tls_client_ca:
            context.load_verify_locations(config.tls_client_ca)
    except (ssl.SSLError, OSError) as error:
        names = ", ".join(filter(None, (config.tls_cert, config.tls_key, config.tls_client_ca)))
        raise UserError(f"these are not a certificate, its key and an authority in PEM: {names}: {error}") from None
    return read


def _configuration(contents: Contents) -> Any:
    key, certificate, authority = contents
    return grpc.ssl_server_certificate_configuration([(key, certificate)], authority)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
