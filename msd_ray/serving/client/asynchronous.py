"""The client for asyncio."""

import asyncio
from collections.abc import AsyncIterator, Sequence
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


class AsyncClient:
    """As `Client`, for use in one event loop. Cancelling a call cancels its work at the service."""

    def __init__(self, where: str | Connection, seconds: float = 60.0, retry: Retry | None = None) -> None:
        """where: host:port, or more about it. Raises UserError where its files cannot be read."""
        self._connection = Connection(where) if isinstance(where, str) else where
        self._seconds, self._retry = seconds, retry or Retry()
        options, tls = self._connection.all_options, self._connection.credentials()
        target, each = self._connection.target, range(max(1, self._connection.connections))
        insecure = [] if tls else [grpc.aio.insecure_channel(target, options) for _ in each]
        self._channels = insecure or [grpc.aio.secure_channel(target, tls, options) for _ in each]
        stubs = [pb_grpc.EnsembleServiceStub(channel) for channel in self._channels]  # type: ignore[no-untyped-call]
        self._stubs = cycle(stubs)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *of_an_error: Any) -> None:
        await self.close()

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def generate(
        self,
        conditions: Sequence[int | str],
        seeds: Sequence[int] | None = None,
        format: str = "",
        version: str = "",
        seconds: float | None = None,
    ) -> list[GeneratedImage]:
        """One image per condition, in order; arguments as `Client.generate`."""
        request = request_of(conditions, seeds, format, version)
        answer: pb.GenerateResponse = await self._patiently("Generate", request, seconds)
        return [made_of(image) for image in answer.images]

    async def stream(
        self,
        conditions: Sequence[int | str],
        seeds: Sequence[int] | None = None,
        format: str = "",
        version: str = "",
        seconds: float | None = None,
    ) -> AsyncIterator[GeneratedImage]:
        """As `generate`, but each as soon as it is made, in any order."""
        request, have = request_of(conditions, seeds, format, version), set[int]()
        patience = self._patience(seconds)
        while len(have) < len(request.conditions) or not request.conditions:
            left, places = without(request, have)
            try:
                async for image in next(self._stubs).GenerateStream(left, **self._with(patience)):
                    have.add(places[image.index])
                    yield replace(made_of(image), index=places[image.index])
            except grpc.RpcError as error:
                await _wait(patience, error)

    async def students(self, version: str = "", seconds: float | None = None) -> pb.ListStudentsResponse:
        """The students of a version; of the main one if none is named."""
        request = pb.ListStudentsRequest(version=version)
        answer: pb.ListStudentsResponse = await self._patiently("ListStudents", request, seconds)
        return answer

    async def ensemble(self, seconds: float | None = None) -> pb.GetEnsembleResponse:
        """What is served: versions, weights, labels, limits."""
        request = pb.GetEnsembleRequest()
        answer: pb.GetEnsembleResponse = await self._patiently("GetEnsemble", request, seconds)
        return answer

    async def _patiently(self, method: str, request: Any, seconds: float | None) -> Any:
        patience = self._patience(seconds)
        while True:
            try:
                return await getattr(next(self._stubs), method)(request, **self._with(patience))
            except grpc.RpcError as error:
                await _wait(patience, error)

    def _patience(self, seconds: float | None) -> Patience:
        return Patience(self._retry, self._seconds if seconds is None else seconds)

    def _with(self, patience: Patience) -> dict[str, Any]:
        return {"timeout": patience.left, "metadata": self._connection.metadata}


async def _wait(patience: Patience, error: grpc.RpcError) -> None:
    """Waits until the next try. Raises RefusedError if there should be none."""
    pause = patience.pause(error)
    if pause is None:
        raise refused(error) from None
    await asyncio.sleep(pause)
