"""gRPC-Web: the contract's methods for gRPC clients in browsers, which have neither HTTP/2 frames nor trailers. A frame
is a byte of flags, a length and a message; the last one has the trailers. In the kind `-text` all is base64."""

import base64
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from msd_ray.serving.gateway.access import CURRENT, Call, noted
from msd_ray.serving.gateway.grpc_server import NAME, EnsembleRpc
from msd_ray.serving.gateway.http_answers import bounded, call_of, told
from msd_ray.serving.generated import ensemble_pb2 as pb
from msd_ray.serving.protocol.grpc_status import to_status, trailing
from msd_ray.serving.protocol.refusal import Refusal, wrong
from msd_ray.serving.service.service import Service
from msd_ray.serving.service.tokens import Tokens

KIND = "application/grpc-web"
TRAILERS = 0x80
UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_METHODS = {method.name: method for method in pb.DESCRIPTOR.services_by_name["EnsembleService"].methods}


def add_grpc_web(app: FastAPI, service: Service, tokens: Tokens) -> None:
    """Adds the methods, at the paths that they have with gRPC."""
    rpc = EnsembleRpc(service)

    async def method(request: Request) -> Response:
        kind = request.headers.get("content-type", "")
        if not kind.startswith(KIND):
            return Response(f"this path takes {KIND}", 415)
        call = call_of(request, "grpc-web")
        frames = _frames(request, rpc, call, await _body(request, call, service, tokens), service.limits.request_bytes)
        text = kind.startswith(f"{KIND}-text")
        return StreamingResponse(_in_base64(frames) if text else frames, media_type=kind)

    for name in _METHODS:
        app.post(f"/{NAME}/{name}", include_in_schema=False)(method)


def frame(flags: int, content: bytes) -> bytes:
    return bytes([flags]) + len(content).to_bytes(4, "big") + content


async def _body(request: Request, call: Call, service: Service, tokens: Tokens) -> bytes | Refusal:
    """Before the answer begins, which would take what still comes of the request."""
    try:
        call.caller = tokens.caller(request.headers.get("authorization", ""))
        return await bounded(request, 2 * service.limits.request_bytes, service.limits.seconds)
    except Refusal as refusal:
        return refusal


async def _frames(
    request: Request, rpc: EnsembleRpc, call: Call, body: bytes | Refusal, most: int
) -> AsyncIterator[bytes]:
    """The answer's messages, and its trailers."""
    trailers: tuple[tuple[str, str | bytes], ...] = ()
    with noted(call):
        CURRENT.set(call)
        try:
            if isinstance(body, Refusal):
                raise body
            async with aclosing(_answers(request, rpc, body, most)) as answers:
                async for answer in answers:
                    call.images += 1 if isinstance(answer, pb.Image) else len(getattr(answer, "images", ()))
                    yield frame(0, answer.SerializeToString())
            number, message = 0, ""
        except Exception as error:
            refusal = told(error, call)
            status = to_status(refusal, call.id)
            number, message, trailers = status.code, quote(status.message), trailing(status, refusal.retry_seconds)
        yield frame(TRAILERS, _fields((("grpc-status", str(number)), ("grpc-message", message), *trailers), call))


async def _answers(request: Request, rpc: EnsembleRpc, body: bytes, most: int) -> Any:
    """Raises Refusal where the body is not one message of the method."""
    method = _METHODS[request.url.path.rpartition("/")[2]]
    message, context = _message(GetMessageClass(method.input_type), request, body, most), _Context(request)
    if method.server_streaming:
        async with aclosing(getattr(rpc, method.name)(message, context)) as stream:
            async for answer in stream:
                yield answer
    else:
        yield await getattr(rpc, method.name)(message, context)


def _message(kind: Any, request: Request, body: bytes, most: int) -> Any:
    try:
        raw = base64.b64decode(body, validate=True) if "-text" in request.headers["content-type"] else body
        if len(raw) < 5 or raw[0] or int.from_bytes(raw[1:5], "big") != len(raw) - 5 or len(raw) - 5 > most:
            raise ValueError
        return kind.FromString(raw[5:])
    except (DecodeError, UnicodeError, ValueError):
        raise wrong("", f"the body is not one frame with a message of this method, of up to {most} bytes") from None


class _Context:
    """What the methods ask of gRPC's context."""

    def __init__(self, request: Request) -> None:
        found = re.fullmatch(r"(\d{1,8})([HMSmun])", request.headers.get("grpc-timeout", ""))
        self._seconds = int(found[1]) * UNITS[found[2]] if found else None

    def time_remaining(self) -> float | None:
        return self._seconds


def _fields(trailers: tuple[tuple[str, str | bytes], ...], call: Call) -> bytes:
    """As HTTP/1.1 writes headers; bytes as base64."""
    texts = [
        (key, value if isinstance(value, str) else base64.b64encode(value).decode().rstrip("="))
        for key, value in trailers
    ]
    return "".join(f"{key}: {value}\r\n" for key, value in [*texts, ("x-request-id", call.id)]).encode()


async def _in_base64(frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for each in frames:
        yield base64.b64encode(each)
