"""Refusals as gRPC statuses with google.rpc error details, and back."""

import math

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from msd_ray.serving.protocol.refusal import Refusal

DOMAIN = "msd.v1"


def to_status(refusal: Refusal, request_id: str) -> status_pb2.Status:
    """A google.rpc.Status with ErrorInfo and RequestInfo, BadRequest for a wrong field, RetryInfo if a retry may
    help."""
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=refusal.kind, domain=DOMAIN),
        error_details_pb2.RequestInfo(request_id=request_id),
    ]
    if refusal.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=refusal.field, description=refusal.message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if refusal.retry_seconds is not None:
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromNanoseconds(int(refusal.retry_seconds * 1e9))
        details.append(info)
    code = code_pb2.Code.Value(refusal.kind)
    return status_pb2.Status(code=code, message=refusal.message, details=[_packed(detail) for detail in details])


def trailing(status: status_pb2.Status, retry: float | None) -> tuple[tuple[str, str | bytes], ...]:
    """The trailing metadata that carry the details. retry: seconds, which gRPC's own retries take from a key of theirs;
    without them they do not try again."""
    details = (rpc_status.GRPC_DETAILS_METADATA_KEY, status.SerializeToString())
    return details, ("grpc-retry-pushback-ms", str(-1 if retry is None else math.ceil(1000 * retry)))


def retry_seconds(error: grpc.RpcError) -> float | None:
    """Seconds after which the service suggests a retry; None if it suggests none."""
    for key, value in error.trailing_metadata() or ():
        if key == rpc_status.GRPC_DETAILS_METADATA_KEY:
            return _retry_seconds(status_pb2.Status.FromString(value))
    return None


def _retry_seconds(status: status_pb2.Status) -> float | None:
    info = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(info):
            return float(info.retry_delay.ToNanoseconds() / 1e9)
    return None


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
