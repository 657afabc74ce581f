"""The client for asyncio."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc

from msd_ray.serving.client.calls import Calls, Retry
from msd_ray.serving.client.channel import Connection
from msd_ray.serving.client.generated_image import GeneratedImage, made_of
from msd_ray.serving.client.messages import Missing, request_of
from msd_ray.serving.generated import ensemble_pb2 as pb


class AsyncClient:
    """As `Client`, for use in one event loop. Cancelling a call cancels its work at the service."""

    def __init__(self, where: str | Connection, seconds: float = 60.0, retry: Retry | None = None) -> None:
        """where: host:port, or more about it. Raises UserError where its files cannot be read."""
        self._calls = Calls(grpc.aio, where, seconds, retry)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *of_an_error: Any) -> None:
        await self.close()

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._calls.channels))

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
        missing, call = Missing(request_of(conditions, seeds, format, version)), self._calls.begin(seconds)
        while missing:
            try:
                async for image in call.attempt("GenerateStream", missing.request()):
                    yield missing.take(image)
            except grpc.RpcError as error:
                await asyncio.sleep(call.pause(error))

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
        call = self._calls.begin(seconds)
        while True:
            try:
                return await call.attempt(method, request)
            except grpc.RpcError as error:
                await asyncio.sleep(call.pause(error))
