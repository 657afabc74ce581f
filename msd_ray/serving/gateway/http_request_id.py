"""One x-request-id for each HTTP request, also if there are proxies between the caller and the gateway."""

import re
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

HEADER = b"x-request-id"
_SENSIBLE = re.compile(r"[A-Za-z0-9._-]{1,64}")
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Any, Send], Awaitable[None]]


def sensible(sent: str) -> str:
    """The caller's id if it is short and plain enough for logs and headers; otherwise a new one."""
    return sent if _SENSIBLE.fullmatch(sent) else uuid.uuid4().hex


class OneRequestId:
    """ASGI middleware: the inner app sees a valid id, and the answer has this id once. Serve's proxy would add the
    caller's original one as well."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = [value.decode("latin-1") for key, value in scope["headers"] if key == HEADER]
        header = (HEADER, sensible(sent[0] if len(sent) == 1 else "").encode())

        async def send_once(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*_others(message["headers"]), header]}
            await send(message)

        await self._app({**scope, "headers": [*_others(scope["headers"]), header]}, receive, send_once)


def _others(headers: Any) -> list[tuple[bytes, bytes]]:
    return [(key, value) for key, value in headers if key.lower() != HEADER]
