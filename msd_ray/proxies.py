"""Proxies that the environment names, as most companies have it."""

import os


def bypass_proxies(*hosts: str) -> None:
    """Has this process and its children ask loopback addresses and these hosts directly, whatever proxy the environment
    names: requests, urllib and gRPC look at no_proxy each time."""
    known = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(",")
    names = [name.strip() for name in [*known, "127.0.0.1", "localhost", "::1", *hosts] if name.strip()]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(dict.fromkeys(names))
