"""How much one caller may ask for."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from msd_ray.ranges import Count


@dataclass(frozen=True)
class Limits:
    """images, request_bytes: of one request. seconds: the longest that a request may take; a caller's own deadline may
    be shorter. concurrent: requests that a front works on at once, before it refuses more."""

    images: Count = 256
    request_bytes: Annotated[int, Field(ge=1024, le=1 << 31)] = 1 << 20
    seconds: Annotated[float, Field(gt=0, le=1e9)] = 60.0
    concurrent: Count = 512
