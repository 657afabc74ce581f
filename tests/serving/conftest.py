"""A whole service in this process: a gRPC gateway on a port of its own and its students, without Ray."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn

from msd_ray.serving.gateway.grpc_server import RpcServer
from msd_ray.serving.gateway.http import http_app
from msd_ray.serving.service.config import GatewayConfig, StudentConfig
from msd_ray.serving.service.ensemble_facts import describe
from msd_ray.serving.service.readiness import GRACE, Readiness
from msd_ray.serving.service.request import Limits
from msd_ray.serving.service.routing import PartRequest
from msd_ray.serving.service.service import Service, StudentImage
from msd_ray.serving.service.student_worker import StudentAtWork
from msd_ray.serving.service.tokens import Tokens
from msd_ray.serving.service.versions import Traffic, Version

from .browser import Page, browser
from .ensembles import saved


class LocalStudents:
    """`Students` in this process, each part loaded once."""

    def __init__(self, config: StudentConfig) -> None:
        self._config, self._thread = config, ThreadPoolExecutor(1)
        self._parts: dict[str, StudentAtWork] = {}

    async def ask(self, part_request: PartRequest, seconds: float) -> Sequence[StudentImage]:
        version = part_request.version.parts[part_request.part]
        if version not in self._parts:
            which = part_request.version.uri, part_request.part, version
            self._parts[version] = await StudentAtWork.load(*which, "cpu", self._config, self._thread)
        return await self._parts[version].make(part_request.sample_ids, part_request.format, seconds)

    async def probe(self, version: Version, part: int, failed: bool) -> str:
        return ""


@dataclass
class Running:
    """address: host:port of gRPC. url: of HTTP. service: to look into; it works in another thread."""

    address: str
    url: str
    service: Service


async def http_server(service: Service, tokens: Tokens, config: GatewayConfig) -> tuple[uvicorn.Server, int]:
    """What Serve's proxy is in earnest."""
    app = http_app(service, tokens, config.origins, config.grpc_web)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup()
    return server, server.servers[0].sockets[0].getsockname()[1]


@contextmanager
def running(
    uris: Sequence[str], limits: Limits, students: Any = None, grace: float = GRACE, **gateway: Any
) -> Iterator[Running]:
    """Serves the ensembles at these URIs, the first with all traffic. grace: of Readiness. gateway: of FrontConfig."""
    tasks = list[asyncio.Task[None]]()
    loop, config = asyncio.new_event_loop(), GatewayConfig(**{"port": 0, "drain_seconds": 1.0, **gateway})
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def wait(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    async def probe(service: Service) -> None:
        while hasattr(students, "probe"):
            await service.probe(0.1)
            await asyncio.sleep(0.02)

    async def start() -> tuple[Service, RpcServer, int, uvicorn.Server, int]:
        service = Service(students or LocalStudents(StudentConfig()), limits)
        service.readiness = Readiness(grace)
        tasks.append(asyncio.create_task(probe(service)))
        service.traffic = Traffic(tuple(map(describe, uris)), tuple(float(not i) for i in range(len(uris))))
        server, tokens = RpcServer(service, Tokens(config.tokens), config), Tokens(config.tokens)
        return service, server, await server.start(), *(await http_server(service, tokens, config))

    service, server, port, http, http_port = wait(start())
    try:
        yield Running(config.address(port), f"http://127.0.0.1:{http_port}", service)
    finally:
        loop.call_soon_threadsafe(tasks[0].cancel)
        wait(server.stop())
        wait(http.shutdown())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three students of 8 x 8 pictures."""
    return saved(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def service(tiny: str) -> Iterator[Running]:
    """Three students behind a gateway without tokens."""
    with running([tiny], Limits(images=32, request_bytes=4096)) as it:
        yield it


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser")) as page:
        yield page
