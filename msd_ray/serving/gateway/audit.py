"""The audit log: a line of JSON for each request in a file, with who asked for what."""

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from logging.handlers import WatchedFileHandler

from msd_ray.serving.gateway.access import Call


def into(path: str) -> logging.Handler:
    """Appends to the file, which may be moved away at any time. Raises OSError if it cannot be opened."""
    handler = WatchedFileHandler(path, encoding="utf-8")
    handler.setFormatter(_Lines())
    return handler


def seeds_sha256(seeds: Sequence[int]) -> str:
    """Of the seeds as decimal numbers with commas between them: it shows whether images came from a request, and does
    not tell their seeds."""
    return hashlib.sha256(",".join(map(str, seeds)).encode()).hexdigest()


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        call: Call = record.__dict__["call"]
        asked = call.request
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "caller": call.caller.name,
            "request_id": call.id,
            "method": call.method,
            "conditions": len(asked.conditions) if asked else 0,
            "seeds_sha256": seeds_sha256(asked.seeds) if asked else "",
            "code": call.code,
            "images": call.images,
        }
        return json.dumps(line)
