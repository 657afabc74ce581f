"""The client for ordinary code."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import grpc

from msd_ray.serving.client.calls import Calls, Retry
from msd_ray.serving.client.channel import Connection
from msd_ray.serving.client.generated_image import GeneratedImage, made_of
from msd_ray.serving.client.messages import Missing, request_of
from msd_ray.serving.generated import ensemble_pb2 as pb


class Client:
    """A client that several threads may use. Every method raises RefusedError if the service refuses, or does not
    answer within `seconds` for all tries together."""

    def __init__(self, where: str | Connection, seconds: float = 60.0, retry: Retry | None = None) -> None:
        """where: host:port, or more about it. Raises UserError where its files cannot be read."""
        self._calls = Calls(grpc, where, seconds, retry)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *of_an_error: Any) -> None:
        self.close()

    def close(self) -> None:
        for channel in self._calls.channels:
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
        them drawn. format: png, webp, jpeg or float32; empty for what suits. version: of the ensemble, if a certain
        one."""
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
        missing, call = Missing(request_of(conditions, seeds, format, version)), self._calls.begin(seconds)
        while missing:
            try:
                for image in call.attempt("GenerateStream", missing.request()):
                    yield missing.take(image)
            except grpc.RpcError as error:
                time.sleep(call.pause(error))

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
        call = self._calls.begin(seconds)
        while True:
            try:
                return call.attempt(method, request)
            except grpc.RpcError as error:
                time.sleep(call.pause(error))
