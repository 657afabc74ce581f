"""A client's connection to the service."""

import ipaddress
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc

from msd_ray.errors import UserError

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # 256 large images are more than gRPC's 4 MiB
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),  # so that the client notices a gateway that died silently
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.use_local_subchannel_pool", 1),  # or all channels would share one connection
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),  # where a name has several addresses
)
_NEVER_PUBLIC = (".localhost", ".local", ".internal", ".svc", ".lan", ".home.arpa")


@dataclass(frozen=True)
class Connection:
    """target: host:port. token: bearer token. tls: whether the port has TLS; ca: PEM of its certificate's authority,
    the system's by default. cert, key: PEM files of the client's own, for mutual TLS. connections: calls take turns on
    so many, each opened at its first turn, since each may reach another gateway if several share an address. options:
    further ones of the channels.
    """

    target: str
    token: str = ""
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    connections: int = 4
    options: tuple[tuple[str, Any], ...] = ()

    def credentials(self) -> grpc.ChannelCredentials | None:
        """The TLS credentials; None without TLS. Raises UserError if a file cannot be read."""
        if not (self.tls or self.ca or self.cert):
            return None
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.cert))

    def channels(self, api: Any) -> list[Any]:
        """The channels that calls take turns on. api: grpc, or grpc.aio. Raises UserError as `credentials`."""
        tls, options = self.credentials(), self.all_options
        make = partial(api.secure_channel, credentials=tls) if tls else api.insecure_channel
        return [make(self.target, options=options) for _ in range(max(1, self.connections))]

    @property
    def all_options(self) -> list[tuple[str, Any]]:
        """The channels' options. The environment's proxies (grpc_proxy, https_proxy, http_proxy, no_proxy) are used
        only for targets outside of this machine and its private networks."""
        return [*_OPTIONS, ("grpc.enable_http_proxy", int(not is_local(self.target))), *self.options]

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()


def is_local(target: str) -> bool:
    """Whether a target is this machine, an address of a private network, or a name without a domain or with one that
    is never a public one, as names within Kubernetes are."""
    if target.startswith(("unix:", "unix-abstract:", "vsock:")):
        return True
    first = re.sub("^(ipv4:|ipv6:|dns:(//[^/]*/)?)", "", target).partition(",")[0]
    host = urlsplit(f"//{first}").hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host.rstrip(".") or host.rstrip(".").endswith(_NEVER_PUBLIC)


def _read(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes() if path else None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
