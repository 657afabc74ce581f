"""How a client reaches the service."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from msd_ray.errors import UserError

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # 256 large images are more than gRPC's 4 MiB
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),  # a front that vanished without a word is noticed
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


@dataclass(frozen=True)
class Connection:
    """target: host:port. token: bearer token. tls: whether the port has TLS; ca: PEM of who signed its certificate, the
    system's by default. cert, key: PEM files of the client's own, for mutual TLS. options: further ones of the channel.
    """

    target: str
    token: str = ""
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    options: tuple[tuple[str, Any], ...] = ()

    def credentials(self) -> grpc.ChannelCredentials | None:
        """None without TLS. Raises UserError where a file cannot be read."""
        if not (self.tls or self.ca or self.cert):
            return None
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.cert))

    @property
    def all_options(self) -> list[tuple[str, Any]]:
        return [*_OPTIONS, *self.options]

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()


def _read(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes() if path else None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
