"""A bare grpc.aio server around the batched generator of the service, in one process, for benchmarks/serving.py. No
routing beyond a list, no checks, no tokens, no replicas.

    python benchmarks/serving_bare.py ENSEMBLE THREADS

Prints its port, and ends when its standard input does.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import torch
from serving_division import divided

from msd_ray.ensemble import read_description
from msd_ray.serving.generated import ensemble_pb2_grpc as pb_grpc
from msd_ray.serving.service.config import StudentConfig
from msd_ray.serving.service.ensemble_facts import part_hash
from msd_ray.serving.service.service import StudentImage
from msd_ray.serving.service.student_worker import StudentAtWork
from msd_ray.storage import Store


class Bare(pb_grpc.EnsembleServiceServicer):
    """Each part of the classes has a computing thread of its own, as it has a replica in the service."""

    def __init__(self, owners: tuple[int, ...], parts: list[StudentAtWork]) -> None:
        self._owners, self._parts = owners, parts

    @classmethod
    async def load(cls, uri: str, threads: int) -> "Bare":
        """threads: of torch, in each of them."""
        known, config = read_description(Store(uri)), StudentConfig(queue=1 << 20)
        torch.set_num_threads(threads)
        which = [(uri, i, part_hash(known, i), "cpu") for i in range(known.partition.parts)]
        parts = [await StudentAtWork.load(*each, config, _thread(threads)) for each in which]
        return cls(known.partition.router.owners, parts)

    async def Generate(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await divided(request, self._owners, self._made)

    async def _made(self, part: int, pairs: list[tuple[int, int]]) -> list[StudentImage]:
        return await self._parts[part].make(pairs, "png", 600.0)


def _thread(torch_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "student", torch.set_num_threads, (torch_threads,))


async def serve(uri: str, threads: int) -> None:
    server = grpc.aio.server()
    pb_grpc.add_EnsembleServiceServicer_to_server(await Bare.load(uri, threads), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
