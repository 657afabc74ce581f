"""A client's request, and the rest of it after a stream broke."""

import secrets
from collections.abc import Sequence

from msd_ray.errors import UserError
from msd_ray.serving.generated import ensemble_pb2 as pb
from msd_ray.serving.protocol.formats import FORMATS, number_of


def request_of(
    conditions: Sequence[int | str], seeds: Sequence[int] | None, format: str, version: str
) -> pb.GenerateRequest:
    """The request. Without seeds it draws them, so that a retried call asks for the same images.

    Raises UserError for values that the contract cannot express.
    """
    if format and format not in FORMATS:
        raise UserError(f"there is no format {format!r}, only {', '.join(FORMATS)}")
    chosen = [secrets.randbits(63) for _ in conditions] if seeds is None else list(seeds)
    try:
        return pb.GenerateRequest(
            conditions=[_condition(c) for c in conditions], seeds=chosen, format=number_of(format), version=version
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"conditions are class numbers or labels, seeds 0 to 2^63 - 1: {error}") from None


def without(request: pb.GenerateRequest, have: set[int]) -> tuple[pb.GenerateRequest, list[int]]:
    """The request for the images that are missing, and the places of these in the whole."""
    places = [i for i in range(len(request.conditions)) if i not in have]
    left = pb.GenerateRequest(
        conditions=[request.conditions[i] for i in places],
        seeds=[request.seeds[i] for i in places] if request.seeds else [],
        format=request.format,
        version=request.version,
    )
    return left, places


def _condition(condition: int | str) -> pb.Condition:
    return pb.Condition(prompt=condition) if isinstance(condition, str) else pb.Condition(class_id=condition)
