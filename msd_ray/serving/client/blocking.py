"""The client for ordinary code."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

import grpc

from msd_ray.serving.client.channel import Connection
from msd_ray.serving.client.generated_image import GeneratedImage, made_of, refused
from msd_ray.serving.client.messages import request_of, without
from msd_ray.serving.client.retry import Patience, Retry
from msd_ray.serving.generated import ensemble_pb2 as pb
from msd_ray.serving.generated import ensemble_pb2_grpc as pb_grpc


class Client:
    """A client that several threads may use. Every method raises RefusedError if the service refuses, or does not
    answer within `seconds` for all tries together."""

    def __init__(self, where: str | Connection, seconds: float = 60.0, retry: Retry | None = None) -> None:
        """where: host:port, or more about it. Raises UserError where its files cannot be read."""
        self._connection = Connection(where) if isinstance(where, str) else where
        self._seconds, self._retry = seconds, retry or Retry()
        options, tls = self._connection.all_options, self._connection.credentials()
        target, each = self._connection.target, range(max(1, self._connection.connections))
        insecure = [] if tls else [grpc.insecure_channel(target, options) for _ in each]
        self._channels = insecure or [grpc.secure_channel(target, tls, options) for _ in each]
        stubs = [pb_grpc.EnsembleServiceStub(channel) for channel in self._channels]  # type: ignore[no-untyped-call]
        self._stubs = cycle(stubs)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *of_an_error: Any) -> None:
        self.close()

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    def generate(
        self,
        conditions: Sequence[int | str],
        seeds: Sequence[int] | None = None,
        format: str = "",
        version: str = "",
        seconds: float | None = None,
    ) -> list[GeneratedImage]:
        """One image per condition, in order. conditions: class numbers or labels. seeds: one for each, or None to have
        them drawn. format: png, webp or float32; empty for what suits. version: of the ensemble, if a certain one."""
        request = request_of(conditions, seeds, format, version)
        return [made_of(image) for image in self._patiently("Generate", request, seconds).images]

    def stream(
        self,
        conditions: Sequence[int | str],
        seeds: Sequence[int] | None = None,
        format: str = "",
        version: str = "",
        seconds: float | None = None,
    ) -> Iterator[GeneratedImage]:
        """As `generate`, but each as soon as it is made, in any order."""
        request, have = request_of(conditions, seeds, format, version), set[int]()
        patience = self._patience(seconds)
        while len(have) < len(request.conditions) or not request.conditions:
            left, places = without(request, have)
            try:
                for image in next(self._stubs).GenerateStream(left, **self._with(patience)):
                    have.add(places[image.index])
                    yield replace(made_of(image), index=places[image.index])
            except grpc.RpcError as error:
                _wait(patience, error)

    def students(self, version: str = "", seconds: float | None = None) -> pb.ListStudentsResponse:
        """The students of a version; of the main one if none is named."""
        request = pb.ListStudentsRequest(version=version)
        answer: pb.ListStudentsResponse = self._patiently("ListStudents", request, seconds)
        return answer

    def ensemble(self, seconds: float | None = None) -> pb.GetEnsembleResponse:
        """What is served: versions, weights, labels, limits."""
        answer: pb.GetEnsembleResponse = self._patiently("GetEnsemble", pb.GetEnsembleRequest(), seconds)
        return answer

    def _patiently(self, method: str, request: Any, seconds: float | None) -> Any:
        patience = self._patience(seconds)
        while True:
            try:
                return getattr(next(self._stubs), method)(request, **self._with(patience))
            except grpc.RpcError as error:
                _wait(patience, error)

    def _patience(self, seconds: float | None) -> Patience:
        return Patience(self._retry, self._seconds if seconds is None else seconds)

    def _with(self, patience: Patience) -> dict[str, Any]:
        return {"timeout": patience.left, "metadata": self._connection.metadata}


def _wait(patience: Patience, error: grpc.RpcError) -> None:
    """Waits until the next try. Raises RefusedError if there should be none."""
    pause = patience.pause(error)
    if pause is None:
        raise refused(error) from None
    time.sleep(pause)
