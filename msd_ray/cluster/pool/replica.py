"""One process of the teacher pool. It accepts requests while it computes, and measures itself."""

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import ray
import torch
from ray.util.metrics import Gauge, Histogram

from msd_ray.cluster.pool.batching import QueueFullError, ReplicaError, Reply, Request, RequestQueue
from msd_ray.cluster.pool.denoising import BatchDenoiser, Outcome
from msd_ray.cluster.pool.replica_metrics import Forward, ReplicaMeter, ReplicaMetrics
from msd_ray.cluster.pool.wire import Array
from msd_ray.diffusion import Denoiser
from msd_ray.errors import MsdRayError, named
from msd_ray.recipes import PoolConfig
from msd_ray.runs.pairs import make_chunk
from msd_ray.runs.plan import Plan
from msd_ray.storage import Store

LOG = logging.getLogger(__name__)
FAREWELL = 0.5
"""Seconds between an error that is not msd_ray's own and the end of the process, so that the reply can be sent."""


class TeacherActor:
    """A replica of the teacher. Stateless: any replica can answer any request, so a student may ask another one.

    Its event loop accepts requests, and one thread computes. With `config.deterministic` each request is a forward pass
    of its own, so the answer depends on no other request.

    After an error that is not msd_ray's own (of CUDA, a driver, a library) a process may fail for ever. So it ends
    itself, and Ray starts another.
    """

    def __init__(self, load: Callable[[torch.device], Denoiser], config: PoolConfig) -> None:
        """load: loads the teacher onto a device of this process."""
        self._answering = BatchDenoiser(load, config.gpus)
        self._queue, self._meter, self._exported = RequestQueue(config), ReplicaMeter(time.monotonic()), _Exported()
        self._thread, self._process = ThreadPoolExecutor(1), uuid.uuid4().hex
        self._serving: asyncio.Task[None] | None = None

    async def denoise(self, x_t: Array, sigma: Array, condition: Array) -> Reply:
        """x0 [B, ...] for x_t [B, ...] at sigma [B] under condition [B] or [B, D]. Raises QueueFullError, and
        ReplicaError where another replica should be asked."""
        return await self._ask("denoise", x_t, sigma, condition)

    async def vjp(self, x_t: Array, sigma: Array, condition: Array, cotangent: Array) -> Reply:
        """cotangent [B, ...] times the Jacobian of x0 in x_t. Raises as `denoise`."""
        return await self._ask("vjp", x_t, sigma, condition, cotangent)

    async def metrics(self) -> ReplicaMetrics:
        read = self._meter.read([r.arrived for r in self._queue.waiting()], time.monotonic())
        self._exported.utilisation.set(read.utilisation)
        return read

    @ray.method(max_task_retries=-1)  # nobody else asks again for these
    async def make_pairs(self, folder: Store, chunk: int, plan: Plan) -> None:
        """Samples and writes one chunk of the pairs that `plan` asks for. Raises ReplicaError."""

        def make() -> None:
            make_chunk(folder, chunk, self._answering.denoiser, self._answering.device, plan)

        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, make)
        except Exception as error:
            raise self._error(error) from None

    async def _ask(self, kind: str, *arrays: Array) -> Reply:
        self._serving = self._serving or asyncio.create_task(self._serve())
        try:
            request = self._queue.put(kind, arrays)
        except QueueFullError:
            self._meter.refused += 1
            raise
        return await request.answer

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._queue.next()
            began, outcomes = await loop.run_in_executor(self._thread, self._compute, batch)
            self._measure(batch, outcomes, began)
            for request, outcome in zip(batch, outcomes, strict=True):
                _settle(request, outcome if isinstance(outcome, Reply) else self._error(outcome))

    def _compute(self, batch: list[Request]) -> tuple[float, list[Outcome]]:
        """Computes in the thread; returns when it began, and the replies."""
        began = time.monotonic()
        self._meter.begin(began)
        return began, self._answering.outcomes(batch)

    def _error(self, error: Exception) -> Exception:
        """The error as the student gets it. Ends the process if the error is not msd_ray's own."""
        if isinstance(error, MsdRayError):
            return error
        reason = named(error)
        LOG.warning("this replica of the teacher ends itself: %s", reason)
        asyncio.get_running_loop().call_later(FAREWELL, os._exit, 1)
        return ReplicaError(self._process, reason)

    def _measure(self, batch: list[Request], outcomes: list[Outcome], began: float) -> None:
        cpu_seconds = sum(o.cpu_seconds for o in outcomes if isinstance(o, Reply))
        delays = tuple(began - r.arrived for r in batch)
        forward = Forward(began, time.monotonic(), sum(r.samples for r in batch), delays, cpu_seconds)
        self._meter.end(forward)
        self._exported.forward(forward)


def _settle(request: Request, outcome: Outcome) -> None:
    if request.answer.cancelled():
        return
    if isinstance(outcome, Reply):
        request.answer.set_result(outcome)
    else:
        request.answer.set_exception(outcome)


class _Exported:
    """Ray's metrics of a replica, for dashboards. `TeacherActor.metrics` does not use them."""

    def __init__(self) -> None:
        self.delay = Histogram(
            "msd_ray_teacher_queue_delay_ms",
            "Milliseconds that a request to the teacher waited",
            boundaries=[1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000],
        )
        self.batch = Histogram(
            "msd_ray_teacher_batch_size",
            "Images per forward pass of the teacher",
            boundaries=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024],
        )
        self.utilisation = Gauge("msd_ray_teacher_utilisation", "Share of the time in which the teacher computes")

    def forward(self, forward: Forward) -> None:
        self.batch.observe(forward.images)
        for delay in forward.delays:
            self.delay.observe(1000 * delay)
