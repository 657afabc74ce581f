"""The access log: one line of JSON for each request, with its caller and its result."""

import asyncio
import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from msd_ray.serving.gateway.http_request_id import sensible
from msd_ray.serving.service.request import ImageRequest
from msd_ray.serving.service.tokens import Caller

LOG = logging.getLogger("msd_ray.access")


@dataclass
class Call:
    """A running request. id: the caller's own, if it is short and plain. code: the name of its gRPC status. caller: who
    it is, and request: what images are asked for, once that is known."""

    protocol: str
    method: str
    peer: str
    id: str = ""
    caller: Caller = Caller()
    request: ImageRequest | None = None
    images: int = 0
    code: str = "OK"
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.id = sensible(self.id)

    @property
    def milliseconds(self) -> float:
        return 1000 * (time.monotonic() - self.began)


CURRENT: ContextVar[Call] = ContextVar("call")
"""The call that a method of gRPC answers."""


def send_to(*handlers: logging.Handler) -> None:
    """Turns the access log on, in this process. Each log record has the `call` as an attribute."""
    LOG.handlers, LOG.propagate = list(handlers), False
    LOG.setLevel(logging.INFO)


def on_stderr() -> logging.Handler:
    """Writes the lines, and nothing around them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    return handler


@contextmanager
def noted(call: Call) -> Iterator[None]:
    """Writes the line of a request once it has ended, also if its caller cancelled it."""
    try:
        yield
    except (asyncio.CancelledError, GeneratorExit):
        call.code = "CANCELLED"
        raise
    finally:
        _note(call)


def _note(call: Call) -> None:
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "request_id": call.id,
        "protocol": call.protocol,
        "method": call.method,
        "peer": call.peer,
        "caller": call.caller.name,
        "code": call.code,
        "images": call.images,
        "ms": round(call.milliseconds, 2),
    }
    LOG.info(json.dumps(line), extra={"call": call})
