"""A span for each gRPC request. Where tracing is on, Serve exports it and carries it on to the students, and has spans
of its own for HTTP; where it is off, this costs next to nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from msd_ray.serving.front.access import Call

_TRACER = trace.get_tracer("msd_ray")
_OUR_FAULT = ("INTERNAL", "UNAVAILABLE")


@contextmanager
def traced(call: Call, metadata: Any) -> Iterator[None]:
    """What happens in this block belongs to the trace that the metadata's `traceparent` names, or begins one."""
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
