"""When a client retries. This is safe, since an image follows from its condition and seed."""

import random
import time
from dataclasses import dataclass

import grpc

from msd_ray.serving.protocol.grpc_status import retry_seconds


@dataclass(frozen=True)
class Retry:
    """first, most: seconds of the first and the longest pause; pauses double. tries: at most so many; None: until the
    call's own deadline. A client retries UNAVAILABLE, and errors that carry a RetryInfo."""

    first: float = 0.1
    most: float = 2.0
    tries: int | None = None


NEVER = Retry(tries=1)


class Patience:
    """The retries of one call. seconds: until its deadline."""

    def __init__(self, retry: Retry, seconds: float) -> None:
        self._retry, self._deadline, self._tried = retry, time.monotonic() + seconds, 0

    @property
    def left(self) -> float:
        """Seconds to the deadline."""
        return max(self._deadline - time.monotonic(), 0.0)

    def pause(self, error: grpc.RpcError) -> float | None:
        """Seconds to wait before the next try; None if there should be none."""
        self._tried += 1
        told = retry_seconds(error)
        if told is None and error.code() != grpc.StatusCode.UNAVAILABLE:
            return None
        doubled = min(self._retry.first * 2.0 ** (self._tried - 1), self._retry.most)
        seconds = max(told or 0.0, doubled * random.uniform(0.5, 1.0))
        out_of_tries = self._retry.tries is not None and self._tried >= self._retry.tries
        return None if out_of_tries or seconds >= self.left else seconds
