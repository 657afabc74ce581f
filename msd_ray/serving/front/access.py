"""Who asked for what, and what became of it: one line of JSON for each request."""

import asyncio
import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

LOG = logging.getLogger("msd_ray.access")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass
class Call:
    """A request under way. id: the caller's own, if it is a sensible one. code: the name of its gRPC status."""

    protocol: str
    method: str
    peer: str
    id: str = ""
    images: int = 0
    code: str = "OK"
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            self.id = uuid.uuid4().hex

    @property
    def milliseconds(self) -> float:
        return 1000 * (time.monotonic() - self.began)


def to_stderr() -> None:
    """Turns the access log on, in this process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOG.handlers, LOG.propagate = [handler], False
    LOG.setLevel(logging.INFO)


@contextmanager
def noted(call: Call) -> Iterator[None]:
    """Writes the line of a request that is answered in this block."""
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
        "code": call.code,
        "images": call.images,
        "ms": round(call.milliseconds, 2),
    }
    LOG.info(json.dumps(line))
