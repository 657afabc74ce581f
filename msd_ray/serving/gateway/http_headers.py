"""A bound for the headers of HTTP requests, which the server itself does not have."""

from typing import Any

from fastapi.responses import JSONResponse

from msd_ray.serving.gateway.http_bodies import error_body
from msd_ray.serving.gateway.http_request_id import App, Message, Send, sensible
from msd_ray.serving.protocol.refusal import Refusal

MOST = 64 << 10
"""Bytes of all names and values together."""


class BoundedHeaders:
    """ASGI middleware that answers requests with more headers itself."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        if sum(len(name) + len(value) for name, value in scope.get("headers", ())) <= MOST:
            await self._app(scope, receive, send)
            return
        refusal = Refusal("RESOURCE_EXHAUSTED", f"the headers of a request may have {MOST} bytes")
        await JSONResponse(error_body(refusal, sensible("")).model_dump(), 431)(scope, receive, send)
