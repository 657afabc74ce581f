"""An S3 server in a process of its own, on loopback: moto's, made slow and unreliable, that counts its requests.

    python server.py   writes its port to standard output

GET /-/behave?JSON  how it treats further requests: fields of Behaviour
GET /-/requests     what was asked since the last such question: [[operation, path], ...]
"""

import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True)
class Behaviour:
    """delay: seconds that each request takes longer. every: the N-th of them fails, 0: none. refuse: the code that
    requests are answered with. only: the operation whose requests are, empty for all. conditions: whether If-Match and
    If-None-Match are `heeded`, `ignored` or `unknown`."""

    delay: float = 0.0
    every: int = 0
    refuse: str = ""
    only: str = ""
    conditions: str = "heeded"


class Unreliable:
    """Passes requests on to `app`, one at a time, as moto's checks and writes are not one step."""

    def __init__(self, app: App) -> None:
        self.app, self.lock = app, threading.Lock()
        self.behaviour, self.count, self.failures = Behaviour(), 0, 0
        self.requests: list[tuple[str, str]] = []

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith("/-/"):
            return [self.told(environ, start)]
        time.sleep(self.behaviour.delay)
        refusal, failure = self.refusal(environ), self.failure(environ)
        if refusal or failure == "slow down":
            return [refused(refusal or "SlowDown", start)]
        if failure == "reset":
            hang_up(environ["werkzeug.socket"])
        with self.lock:
            body = list(self.app(environ, start))
        if failure == "answer lost":
            hang_up(environ["werkzeug.socket"])
        return body

    def refusal(self, environ: dict[str, Any]) -> str:
        """The code that this request is refused with, if it is."""
        conditions = [environ.pop(f"HTTP_IF_{name}", None) for name in ("MATCH", "NONE_MATCH")]
        if self.behaviour.conditions == "unknown" and any(conditions):
            return "NotImplemented"
        if self.behaviour.conditions == "heeded":
            found = zip(("MATCH", "NONE_MATCH"), conditions, strict=True)
            environ.update({f"HTTP_IF_{name}": condition for name, condition in found if condition})
        return self.behaviour.refuse if self.behaviour.only in ("", operation(environ)) else ""

    def failure(self, environ: dict[str, Any]) -> str:
        """How this request fails, if it does: in each way in its turn."""
        with self.lock:
            self.requests.append((operation(environ), environ["PATH_INFO"]))
            self.count += 1
            if not self.behaviour.every or self.count % self.behaviour.every:
                return ""
            self.failures += 1
            return ("slow down", "reset", "answer lost")[self.failures % 3]

    def told(self, environ: dict[str, Any], start: Callable[..., Any]) -> bytes:
        with self.lock:
            if environ["PATH_INFO"] == "/-/behave":
                asked = json.loads(unquote(environ["QUERY_STRING"]))
                self.behaviour, self.count, said = Behaviour(**asked), 0, b""
            else:
                said, self.requests = json.dumps(self.requests).encode(), []
        start("200 OK", [("Content-Length", str(len(said)))])
        return said


def refused(code: str, start: Callable[..., Any]) -> bytes:
    status = {"NotImplemented": "501 No", "SlowDown": "503 No", "InternalError": "500 No"}.get(code, "403 No")
    body = f"<Error><Code>{code}</Code><Message>This server says so.</Message></Error>".encode()
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return body


def operation(environ: dict[str, Any]) -> str:
    """Amazon's name for a request, where there is no doubt; a listing of a bucket is `List`."""
    method, query = environ["REQUEST_METHOD"], environ["QUERY_STRING"]
    bucket_only = "/" not in environ["PATH_INFO"].strip("/")
    if method == "POST":
        return "CreateUpload" if "uploads" in query else "Complete" if "uploadId" in query else "DeleteMany"
    if method == "PUT":
        return "Part" if "partNumber" in query else "CreateBucket" if bucket_only else "Put"
    if method == "GET" and bucket_only:
        return "List"
    if method == "DELETE":
        return "Abort" if "uploadId" in query else "Delete"
    return {"GET": "Get", "HEAD": "Head"}[method]


def hang_up(connection: socket.socket) -> None:
    """Resets the connection, as a server does that dies."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError


def main() -> None:
    server = make_server("127.0.0.1", 0, Unreliable(create_backend_app("s3")), True, request_handler=MotoRequestHandler)
    print(server.server_port, flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown()), daemon=True).start()  # ends with its parent
    server.serve_forever()


if __name__ == "__main__":
    main()
