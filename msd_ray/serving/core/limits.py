"""How much one caller may ask for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """images, request_bytes: of one request. seconds: the longest that a request may take; a caller's own deadline may
    be shorter. concurrent: requests that a front works on at once, before it refuses more."""

    images: int = 256
    request_bytes: int = 1 << 20
    seconds: float = 60.0
    concurrent: int = 512

    def __post_init__(self) -> None:
        if min(self.images, self.concurrent) < 1 or self.request_bytes < 1024 or self.seconds <= 0:
            raise ValueError("limits must be positive, and request_bytes at least 1024")
