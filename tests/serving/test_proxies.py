"""Proxies that the environment names: companies set them everywhere, and nothing nearby may go through them."""

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from msd_ray.proxies import bypass_proxies
from msd_ray.serving.client import AsyncClient, Client, RefusedError, Retry
from msd_ray.serving.client.channel import is_local

from .conftest import Running
from .test_gateway import ALONE

NAMES = ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy")


class Proxy:
    """Takes note of what it is asked for first, and hangs up."""

    def __init__(self) -> None:
        self._socket, self.asked = socket.create_server(("127.0.0.1", 0)), list[str]()
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.asked.append(connection.recv(1000).decode().splitlines()[0])

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Named in the environment as companies do."""
    it = Proxy()
    for name in NAMES:
        monkeypatch.setenv(name, it.url)
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield it
    it.close()


def test_a_service_on_this_machine_is_asked_directly(service: Running, proxy: Proxy) -> None:
    async def ask() -> int:
        async with AsyncClient(service.address) as client:
            return len(await client.generate([0, 1]))

    assert asyncio.run(ask()) == 2
    for target in (service.address, service.address.replace("127.0.0.1", "localhost")):
        with Client(target) as client:
            assert client.generate([0])
    assert proxy.asked == []


def test_a_service_elsewhere_is_asked_through_the_proxy(proxy: Proxy) -> None:
    with Client("msd.example.com:443", seconds=5.0, retry=Retry(tries=1)) as client, pytest.raises(RefusedError):
        client.generate([0])
    assert proxy.asked[0] == "CONNECT msd.example.com:443 HTTP/1.1"


@pytest.mark.parametrize(
    ("target", "local"),
    [
        ("127.0.0.1:9000", True),
        ("localhost:9000", True),
        ("[::1]:9000", True),
        ("ipv4:10.0.0.3:9000,10.0.0.4:9000", True),
        ("ipv6:[fd00::1]:9000", True),
        ("172.16.3.4:9000", True),
        ("unix:/run/msd", True),
        ("dns:///msd-ray:9000", True),
        ("msd.default.svc:9000", True),
        ("dns://10.0.0.10/msd.default.svc.cluster.local:9000", True),
        ("msd.example.com:443", False),
        ("dns:///msd.example.com:443", False),
        ("ipv4:8.8.8.8:443", False),
        ("[2001:4860:4860::8888]:443", False),
    ],
)
def test_which_targets_are_nearby(target: str, local: bool) -> None:
    assert is_local(target) is local


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_processes_that_we_start_ask_this_machine_directly(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv(name, "example.com, 10.0.0.0/8")
    bypass_proxies("10.1.1.1")
    bypass_proxies()
    wanted = "example.com,10.0.0.0/8,127.0.0.1,localhost,::1,10.1.1.1"
    assert (os.environ["no_proxy"], os.environ["NO_PROXY"]) == (wanted, wanted)


def test_replicas_ask_each_other_directly(
    service: Running, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tiny: str
) -> None:
    """By what Serve's handles are told in the environment of each replica: their channels have no option for it."""
    from msd_ray.serving.serve_apps.apps import part, student_args
    from msd_ray.serving.service.config import ServeConfig
    from msd_ray.serving.service.ensemble_facts import describe

    (_, args), *_ = student_args(describe(tiny), ServeConfig(), False).values()
    told = part(args)._bound_deployment.ray_actor_options["runtime_env"]["env_vars"]
    request = health_pb2.HealthCheckRequest()
    for environment, asked in ((told, []), ({"grpc_proxy": proxy.url}, [f"CONNECT {service.address} HTTP/1.1"])):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with grpc.insecure_channel(service.address, ALONE) as channel, suppress(grpc.RpcError):
            health_pb2_grpc.HealthStub(channel).Check(request, timeout=2)
        assert proxy.asked[:1] == asked
