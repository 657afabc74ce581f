"""What both clients do alike: they take turns on their connections, and try a call again until its deadline. To try
again is safe, since an image follows from its condition and seed."""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import grpc

from msd_ray.serving.client.channel import Connection
from msd_ray.serving.client.generated_image import refused
from msd_ray.serving.generated import ensemble_pb2_grpc as pb_grpc
from msd_ray.serving.protocol.grpc_status import retry_seconds


@dataclass(frozen=True)
class Retry:
    """first, most: seconds of the first and the longest pause; pauses double. tries: at most so many; None: until the
    call's own deadline. A client retries UNAVAILABLE, CANCELLED and errors that carry a RetryInfo."""

    first: float = 0.1
    most: float = 2.0
    tries: int | None = None


NEVER = Retry(tries=1)
_PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
"""CANCELLED comes from a server that ended before it took the call; what the caller cancels itself is no such error."""


class Calls:
    """The calls of one client."""

    def __init__(self, api: Any, where: str | Connection, seconds: float, retry: Retry | None) -> None:
        """api: grpc, or grpc.aio for asyncio. where: host:port, or more about it. seconds: of a call, with all its
        tries, that says nothing else. Raises UserError where the connection's files cannot be read."""
        connection = Connection(where) if isinstance(where, str) else where
        self.channels = connection.channels(api)
        self._stubs = cycle([pb_grpc.EnsembleServiceStub(each) for each in self.channels])  # type: ignore[no-untyped-call]
        self._metadata, self._seconds, self._retry = connection.metadata, seconds, retry or Retry()

    def begin(self, seconds: float | None) -> "Call":
        return Call(self._stubs, self._metadata, self._retry, self._seconds if seconds is None else seconds)


class Call:
    """One call with all its tries. seconds: until its deadline."""

    def __init__(self, stubs: Iterator[Any], metadata: Any, retry: Retry, seconds: float) -> None:
        self._stubs, self._metadata, self._retry = stubs, metadata, retry
        self._deadline, self._tried = time.monotonic() + seconds, 0

    def attempt(self, method: str, request: Any) -> Any:
        """What gRPC gives for one try: the answer or the stream of answers, with grpc.aio to be awaited."""
        return getattr(next(self._stubs), method)(request, timeout=self._left, metadata=self._metadata)

    def pause(self, error: grpc.RpcError) -> float:
        """Seconds to wait before the next try. Raises RefusedError if there should be none."""
        self._tried += 1
        told = retry_seconds(error)
        doubled = min(self._retry.first * 2.0 ** (self._tried - 1), self._retry.most)
        seconds = max(told or 0.0, doubled * random.uniform(0.5, 1.0))
        passing = told is not None or error.code() in _PASSING
        out_of_tries = self._retry.tries is not None and self._tried >= self._retry.tries
        if not passing or out_of_tries or seconds >= self._left:
            raise refused(error) from None
        return seconds

    @property
    def _left(self) -> float:
        """Seconds to the deadline."""
        return max(self._deadline - time.monotonic(), 0.0)
