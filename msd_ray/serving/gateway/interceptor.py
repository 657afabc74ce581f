"""The gRPC interceptor around the service's methods: tokens, well-formed messages, statuses, the access log."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from msd_ray.serving.gateway.access import CURRENT, Call, noted
from msd_ray.serving.gateway.http_request_id import HEADER
from msd_ray.serving.protocol.grpc_status import to_status, trailing
from msd_ray.serving.protocol.refusal import Refusal, wrong
from msd_ray.serving.service.tokens import Tokens

_TRACER = trace.get_tracer("msd_ray")
_OUR_FAULT = ("INTERNAL", "UNAVAILABLE")


@contextmanager
def traced(call: Call, metadata: Any) -> Iterator[None]:
    """Continues the trace that the metadata's `traceparent` names in this block, or begins one."""
    sent = {str(key): str(value) for key, value in metadata or () if key in ("traceparent", "tracestate")}
    with _TRACER.start_as_current_span(
        call.method.strip("/"),
        propagate.extract(sent),
        SpanKind.SERVER,
        {"rpc.system": call.protocol, "request_id": call.id},
        record_exception=False,  # refusals are answers
        set_status_on_exception=False,
    ) as span:
        try:
            yield
        finally:
            span.set_attributes({"rpc.response.status_code": call.code, "images": call.images})
            if call.code in _OUR_FAULT:
                span.set_status(Status(StatusCode.ERROR, call.code))


LOG = logging.getLogger(__name__)
OPEN_TO_ALL = "/grpc.health.v1.Health/"  # probes have no tokens
OURS = "/msd.v1."
_CODES = {code.value[0]: code for code in grpc.StatusCode}
Context: TypeAlias = Any  # grpc has no types: an aio.ServicerContext
Handler: TypeAlias = Any  # an RpcMethodHandler


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Parses requests itself, so that malformed ones are INVALID_ARGUMENT; grpc itself would answer INTERNAL."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Handler]], handler_call_details: Any
    ) -> Handler:
        handler, method = await continuation(handler_call_details), handler_call_details.method
        if handler is None or method.startswith(OPEN_TO_ALL):
            return handler
        if not method.startswith(OURS):
            return self._only_with_token(handler, method)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(handler, method), response_serializer=handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(handler, method), response_serializer=handler.response_serializer
        )

    def _unary(self, handler: Handler, method: str) -> Callable[[bytes, Context], Awaitable[Any]]:
        async def answer(raw: bytes, context: Context) -> Any:
            call = _call(method, context)
            context.set_trailing_metadata(_id_of(call))
            with traced(call, context.invocation_metadata()), noted(call):
                try:
                    result = await handler.unary_unary(self._admitted(handler, raw, context, call), context)
                except Exception as error:
                    await _abort(context, error, call)
                call.images = len(getattr(result, "images", ()))
                return result

        return answer

    def _stream(self, handler: Handler, method: str) -> Callable[[bytes, Context], Awaitable[None]]:
        """Writes each message itself. If the caller goes away, the garbage collector would close an async generator
        outside of its trace."""

        async def answer(raw: bytes, context: Context) -> None:
            call = _call(method, context)
            context.set_trailing_metadata(_id_of(call))
            with traced(call, context.invocation_metadata()), noted(call):
                try:
                    async with aclosing(
                        handler.unary_stream(self._admitted(handler, raw, context, call), context)
                    ) as stream:
                        async for message in stream:
                            await _write(context, message)
                            call.images += 1
                except Exception as error:
                    await _abort(context, error, call)

        return answer

    def _only_with_token(self, handler: Handler, method: str) -> Handler:
        """For the methods of other services, all of which are bidirectional streams: reflection."""

        async def answer(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
            try:
                self._tokens.caller(_header(context, "authorization"))
            except Refusal as refusal:
                await _abort(context, refusal, _call(method, context))
            async for message in handler.stream_stream(requests, context):
                yield message

        return grpc.stream_stream_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)

    def _admitted(self, handler: Handler, raw: bytes, context: Context, call: Call) -> Any:
        """The request, if the caller's token is valid. Raises Refusal otherwise."""
        call.caller = self._tokens.caller(_header(context, "authorization"))
        CURRENT.set(call)
        try:
            return handler.request_deserializer(raw)
        except (DecodeError, UnicodeError, ValueError):
            raise wrong("", "the request is not a message of this method, or holds text that is not UTF-8") from None


async def _write(context: Context, message: Any) -> None:
    """Raises CancelledError if the caller has gone away; grpc would log that as an error of the service."""
    try:
        await context.write(message)
    except grpc.aio.BaseError:
        raise asyncio.CancelledError from None


async def _abort(context: Context, error: Exception, call: Call) -> None:
    """Ends the call by raising, with the part of the error that the caller may see."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, Refusal):
        LOG.error("request %s failed", call.id, exc_info=error)
        error = Refusal("INTERNAL", f"the service failed; its log says why under {call.id}")
    call.code = error.kind
    status = to_status(error, call.id)
    await context.abort(_CODES[status.code], status.message, (*trailing(status, error.retry_seconds), *_id_of(call)))


def _call(method: str, context: Context) -> Call:
    return Call("grpc", method, context.peer(), _header(context, HEADER.decode()))


def _id_of(call: Call) -> tuple[tuple[str, str], ...]:
    """The request's id as metadata."""
    return ((HEADER.decode(), call.id),)


def _header(context: Context, name: str) -> str:
    values = [value for key, value in context.invocation_metadata() or () if key == name]
    return str(values[0]) if values else ""
