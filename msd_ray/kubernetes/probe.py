"""Probes of a gateway pod that Kubernetes' own cannot do: gRPC over TLS, and whether the raylet is alive."""

import argparse
import socket
import ssl
import sys
import urllib.request
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

RAYLET = "http://127.0.0.1:52365/api/local_raylet_healthz"
"""Where Ray's agent says whether the raylet of its node lives."""


def serving(port: int, ca: str, seconds: float = 3.0) -> bool:
    """Whether a gateway answers on this pod; over TLS if `ca`, a PEM file with its certificate or the authority's, is
    given. The certificate has another name than this pod, so any name is accepted."""
    target = f"127.0.0.1:{port}"
    try:
        with _channel(target, ca) as channel:
            answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=seconds)
    except (grpc.RpcError, OSError):
        return False
    return bool(answer.status == HealthCheckResponse.SERVING)


def raylet_lives(url: str = RAYLET, seconds: float = 3.0) -> bool:
    """Whether the raylet of this pod says that it is well."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=seconds) as answer:
            return b"success" in answer.read()
    except OSError:
        return False


def _channel(target: str, ca: str) -> grpc.Channel:
    options = [("grpc.enable_http_proxy", 0)]
    if not ca:
        return grpc.insecure_channel(target, options)
    with open(ca, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    return grpc.secure_channel(target, credentials, [*options, ("grpc.ssl_target_name_override", _name(target, ca))])


def _name(target: str, ca: str) -> str:
    """A name in the certificate of the server on that port."""
    host, _, port = target.rpartition(":")
    context = ssl.create_default_context(cafile=ca)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # `ca` may be the certificate itself
    with socket.create_connection((host, int(port)), 3) as raw, context.wrap_socket(raw) as wrapped:
        names: Any = (wrapped.getpeercert() or {}).get("subjectAltName", ())
    return next((str(value).replace("*", "any") for kind, value in names if kind == "DNS"), host)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="of gRPC")
    parser.add_argument("--ca", default="", help="PEM; without it there is no TLS")
    parser.add_argument("--raylet", action="store_true", help="ask for the raylet instead")
    said = parser.parse_args()
    sys.exit(0 if (raylet_lives() if said.raylet else serving(said.port, said.ca)) else 1)


if __name__ == "__main__":
    main()
