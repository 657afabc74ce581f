"""The parts that all HTTP answers share: tokens, statuses, the access log."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from msd_ray.serving.gateway.access import Call, noted
from msd_ray.serving.gateway.http_bodies import ImageBody, error_body
from msd_ray.serving.protocol.refusal import Refusal
from msd_ray.serving.service.tokens import Tokens

LOG = logging.getLogger(__name__)
CODES = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "NOT_FOUND": 404,
    "FAILED_PRECONDITION": 409,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


class Lines(StreamingResponse):
    """One JSON object in each line."""

    media_type = "application/x-ndjson"


async def answered(request: Request, tokens: Tokens, work: Callable[[Call], Awaitable[Any]]) -> Response:
    """The result of the work as JSON, or its refusal."""
    call = call_of(request)
    with noted(call):
        try:
            call.caller = tokens.caller(request.headers.get("authorization", ""))
            answer: Response = JSONResponse(await work(call))
        except Exception as error:
            answer = _refused(told(error, call), call)
    answer.headers["x-request-id"] = call.id
    return answer


async def streamed(request: Request, tokens: Tokens, work: Callable[[Call], AsyncIterator[ImageBody]]) -> Response:
    """Sends each image of the work as a line of JSON, at once. A refusal before the first one becomes a status."""
    call = call_of(request)
    lines = _lines(call, tokens, request.headers.get("authorization", ""), work)
    try:
        first = await anext(lines)
        answer: Response = Lines(_from(first, lines))
    except Refusal as refusal:
        answer = _refused(refusal, call)
    answer.headers["x-request-id"] = call.id
    return answer


async def bounded(request: Request, most: int, seconds: float) -> bytes:
    """The body. Raises Refusal if it is longer than `most` bytes, or does not come within so many seconds or at all."""
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise Refusal("RESOURCE_EXHAUSTED", f"a request may have {most} bytes")
    except TimeoutError:
        raise Refusal("DEADLINE_EXCEEDED", f"the body of the request did not come within {seconds:.3g} s") from None
    except ClientDisconnect:
        raise Refusal("INVALID_ARGUMENT", "the body of the request did not come to its end") from None
    return bytes(body)


async def _lines(
    call: Call, tokens: Tokens, authorization: str, work: Callable[[Call], AsyncIterator[ImageBody]]
) -> AsyncIterator[str]:
    """Waits for the first image. Raises Refusal if there is none."""
    with noted(call):
        try:
            call.caller = tokens.caller(authorization)
            async for image in work(call):
                call.images += 1
                yield _line("image", image)
        except Exception as error:
            refusal = told(error, call)
            if not call.images:
                raise refusal from None
            yield _line("error", error_body(refusal, call.id))


async def _from(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for line in rest:
        yield line


def _line(name: str, body: BaseModel) -> str:
    return f'{{"{name}":{body.model_dump_json()}}}\n'


def told(error: Exception, call: Call) -> Refusal:
    """An error as the caller and the access log may see it."""
    if not isinstance(error, Refusal):
        LOG.error("request %s failed", call.id, exc_info=error)
        error = Refusal("INTERNAL", f"the service failed; its log says why under {call.id}")
    call.code = error.kind
    return error


def _refused(refusal: Refusal, call: Call) -> Response:
    headers = {}
    if refusal.retry_seconds is not None:
        headers["retry-after"] = str(math.ceil(refusal.retry_seconds))
    if refusal.kind == "UNAUTHENTICATED":
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error_body(refusal, call.id).model_dump(), _code(refusal), headers)


def _code(refusal: Refusal) -> int:
    too_large = refusal.kind == "RESOURCE_EXHAUSTED" and refusal.retry_seconds is None
    return 413 if too_large else CODES[refusal.kind]


def call_of(request: Request, protocol: str = "http") -> Call:
    peer = f"{request.client.host}:{request.client.port}" if request.client else ""
    return Call(protocol, request.url.path, peer, request.headers.get("x-request-id", ""))
