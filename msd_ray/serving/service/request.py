"""A caller's request, with the checks that need no ensemble."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from msd_ray.own_code import is_own
from msd_ray.ranges import LARGEST_SEED, Amount, Count, CountOrNone, ImagesOrNone
from msd_ray.serving.protocol.formats import FORMATS
from msd_ray.serving.protocol.refusal import wrong


@dataclass(frozen=True)
class Limits:
    """images, request_bytes: of one request. seconds: the longest that a request may take; a caller's own deadline may
    be shorter. concurrent: requests that a gateway works on at once. waiting: that wait for their turn besides, before
    it refuses more. images_per_second, burst, images_per_day: that each caller may ask a gateway for, on average, at
    once after a pause, and from midnight to midnight UTC; 0 for no limit, and of burst for `images`. deny:
    `module:function` that gateways call with each prompt; a text that it returns is why the prompt is refused.
    withhold: the same with a prompt or label, and the image that was made of it."""

    images: Count = 256
    request_bytes: Annotated[int, Field(ge=1024, le=1 << 31)] = 1 << 20
    seconds: Annotated[float, Field(gt=0, le=1e9)] = 60.0
    concurrent: Count = 512
    waiting: CountOrNone = 512
    images_per_second: Amount = 0.0
    burst: CountOrNone = 0
    images_per_day: ImagesOrNone = 0
    deny: str = ""
    withhold: str = ""

    def __post_init__(self) -> None:
        for key in ("deny", "withhold"):
            if (name := getattr(self, key)) and not is_own(name):
                raise ValueError(f"{key} must be module:function")


@dataclass(frozen=True)
class ImageRequest:
    """conditions: class numbers or labels. seeds: one for each. format: one of FORMATS; empty: as suits the samples.
    version: of the ensemble, by name; empty: as the traffic is split."""

    conditions: tuple[int | str, ...]
    seeds: tuple[int, ...]
    format: str = ""
    version: str = ""


def checked(
    conditions: Sequence[int | str], seeds: Sequence[int], format: str, version: str, limits: Limits
) -> ImageRequest:
    """The request with seeds drawn if it has none. Raises Refusal, which names the field, where it is wrong."""
    if not conditions:
        raise wrong("conditions", "there must be at least one")
    if len(conditions) > limits.images:
        raise wrong("conditions", f"at most {limits.images} images can be asked for at once, not {len(conditions)}")
    if seeds and len(seeds) != len(conditions):
        raise wrong("seeds", f"one per condition or none at all; there are {len(seeds)} for {len(conditions)}")
    for i, seed in enumerate(seeds):
        if not 0 <= seed <= LARGEST_SEED:
            raise wrong(f"seeds[{i}]", f"must be from 0 to 2^63 - 1 ({LARGEST_SEED})")
    if format and format not in FORMATS:
        raise wrong("format", f"there is no format {format!r}, only {', '.join(FORMATS)}")
    return ImageRequest(tuple(conditions), tuple(seeds) or _drawn(len(conditions)), format, version)


def _drawn(n: int) -> tuple[int, ...]:
    return tuple(secrets.randbits(63) for _ in range(n))
