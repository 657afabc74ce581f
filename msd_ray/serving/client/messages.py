"""A client's request, and what is missing of it after a stream broke."""

import secrets
from collections.abc import Sequence
from dataclasses import replace

from msd_ray.errors import UserError
from msd_ray.serving.client.generated_image import GeneratedImage, made_of
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


class Missing:
    """The images of a request that have not come yet, over all tries of a stream. A request without conditions always
    misses something: only the service refuses it."""

    def __init__(self, request: pb.GenerateRequest) -> None:
        self._whole, self._have, self._places = request, set[int](), list[int]()

    def __bool__(self) -> bool:
        return len(self._have) < len(self._whole.conditions) or not self._whole.conditions

    def request(self) -> pb.GenerateRequest:
        """The request for what is missing now."""
        whole = self._whole
        self._places = [i for i in range(len(whole.conditions)) if i not in self._have]
        return pb.GenerateRequest(
            conditions=[whole.conditions[i] for i in self._places],
            seeds=[whole.seeds[i] for i in self._places] if whole.seeds else [],
            format=whole.format,
            version=whole.version,
        )

    def take(self, image: pb.Image) -> GeneratedImage:
        """An image that came for the last request, with its place in the whole."""
        place = self._places[image.index]
        self._have.add(place)
        return replace(made_of(image), index=place)


def _condition(condition: int | str) -> pb.Condition:
    return pb.Condition(prompt=condition) if isinstance(condition, str) else pb.Condition(class_id=condition)
