"""An S3 server on loopback for the tests that ask for one."""

import json
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class S3:
    """A running server. port: on 127.0.0.1."""

    port: int

    def uri(self, path: str) -> str:
        return f"s3://{path}?endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"

    def behave(self, **fields: float | str) -> None:
        """How it treats all further requests; what is not said is as it should be. fields: those of Behaviour."""
        self._ask(f"/-/behave?{quote(json.dumps(fields))}")

    def requests(self) -> list[tuple[str, str]]:
        """(operation, path) of each request since this was last asked."""
        return [(operation, path) for operation, path in json.loads(self._ask("/-/requests"))]

    def counted(self) -> Counter[str]:
        return Counter(operation for operation, _ in self.requests())

    def make_bucket(self, name: str) -> None:
        self._ask(f"/{name}", "PUT")

    def _ask(self, path: str, method: str = "GET") -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        with DIRECT.open(request, timeout=30) as answer:
            return bytes(answer.read())


@contextmanager
def running() -> Iterator[S3]:
    """A server for as long as the context lasts."""
    script = str(Path(__file__).with_name("server.py"))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, script], **pipes, text=True)
    assert process.stdout
    yield S3(int(process.stdout.readline()))
    process.communicate("")
