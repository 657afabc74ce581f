"""Replicas that hold students: of one part, or of several parts in turn."""

import asyncio
import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakSet

import torch
from ray import serve

from msd_ray.errors import MsdRayError
from msd_ray.serving.protocol.refusal import Refusal, away
from msd_ray.serving.serve_apps.app_names import model_id
from msd_ray.serving.serve_apps.request_metrics import ReplicaRequestMetrics
from msd_ray.serving.serve_apps.scaling import BUSY, DELAY
from msd_ray.serving.service.config import StudentConfig
from msd_ray.serving.service.gatherer import Answers, PartAnswer, PartCall
from msd_ray.serving.service.student_worker import StudentAtWork

LOG = logging.getLogger("ray.serve")  # whose lines Serve shows and keeps
TRY_AGAIN = 10.0  # seconds until students that could not be loaded are tried again


class LoadedStudents:
    """A replica's students. On a CPU each part has a computing thread of its own; a GPU has one for all."""

    def __init__(self, config: StudentConfig) -> None:
        torch.set_num_threads(config.threads)
        self._config, self._device = config, "cuda" if config.gpus and torch.cuda.is_available() else "cpu"
        self._thread = self._new_thread()

    def _new_thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, "students", torch.set_num_threads, (self._config.threads,))

    async def load(self, uri: str, part: int, version: str) -> "Replica":
        """Loads the students. Raises UserError or CorruptError if that fails."""
        thread = self._thread if self._device == "cuda" else self._new_thread()
        student = await StudentAtWork.load(uri, part, version, self._device, self._config, thread)
        return Replica(student, ReplicaRequestMetrics(version))

    def stats(self, replicas: "Sequence[Replica]") -> dict[str, float]:
        """What `by_queue_delay` goes by: of the parts that have most to do. Empty if Serve goes by calls."""
        if not self._config.queue_delay_ms:
            return {}
        strains = [replica.strain() for replica in replicas] or [(0.0, 0.0)]
        delay, busy = (max(each) for each in zip(*strains, strict=True))
        return {DELAY: 1000 * delay / self._config.queue_delay_ms, BUSY: busy}


class Replica:
    """The students of one part, with their meters."""

    def __init__(self, student: StudentAtWork, meters: ReplicaRequestMetrics) -> None:
        self._student, self._meters = student, meters

    @property
    def most(self) -> int:
        """Images of its largest evaluation."""
        return self._student.most

    def why(self) -> str:
        """Why it makes no images; empty if it does."""
        return self._student.pulse.why()

    def check(self) -> None:
        """Raises RuntimeError where it will not make any more: only another process can help then."""
        if self._student.pulse.lost:
            raise RuntimeError(self.why())

    def strain(self) -> tuple[float, float]:
        """As `Batcher.strain`."""
        return self._student.strain()

    async def answer(self, call: PartCall) -> PartAnswer:
        """The images. A refusal is returned, not raised: it is no error of the replica."""
        try:
            made = await self._student.make(call.sample_ids, call.format, call.seconds, call.waited)
        except Refusal as refusal:
            self._meters.refused(refusal.kind)
            return refusal
        self._meters.made(made, self._student.waiting)
        return made


class DedicatedReplica:
    """A deployment of the students of one part. If they cannot be loaded, it reports why and tries again: callers learn
    that sooner than from a death, and it costs less than a restart each time."""

    async def __init__(self, uri: str, part: int, version: str, config: dict[str, Any]) -> None:  # type: ignore[misc]
        self._bench, self._which = LoadedStudents(StudentConfig(**config)), (uri, part, version)
        self._replica: Replica | None = None
        self._why = await self._load()
        self._trying = asyncio.create_task(self._try_again())

    async def ready(self) -> str:
        """Why it cannot be asked; empty where it can."""
        return self._replica.why() if self._replica else self._why

    async def check_health(self) -> None:
        """Serve replaces the replica where this raises."""
        if self._replica:
            self._replica.check()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve asks for it now and then, where the number of replicas follows from it."""
        return self._bench.stats([self._replica] if self._replica else [])

    async def make(self, calls: list[PartCall]) -> Answers:
        if not self._replica:
            return Answers([away(self._why) for _ in calls], [0 for _ in calls])
        answers = await asyncio.gather(*map(self._replica.answer, calls))
        return Answers(answers, [self._replica.most for _ in calls])

    async def _load(self) -> str:
        try:
            self._replica = await self._bench.load(*self._which)
        except MsdRayError as error:
            LOG.error("%s", error)
            return str(error)
        return ""

    async def _try_again(self) -> None:
        while self._why:
            await asyncio.sleep(TRY_AGAIN)
            self._why = await self._load()


def multiplexed_replica(resident: int) -> type:
    """A deployment whose replicas load the parts that requests need, and keep up to `resident` of them."""

    class Multiplexed:
        def __init__(self, config: dict[str, Any]) -> None:
            self._bench, self._loaded = LoadedStudents(StudentConfig(**config)), WeakSet[Replica]()

        @serve.multiplexed(max_num_models_per_replica=resident)  # type: ignore[untyped-decorator]
        async def part(self, wanted: str) -> Replica:
            uri, part, version = json.loads(wanted)
            replica = await self._bench.load(uri, part, version)
            self._loaded.add(replica)
            return replica

        async def check_health(self) -> None:
            """Serve replaces the replica where this raises."""
            for replica in list(self._loaded):
                replica.check()

        async def record_autoscaling_stats(self) -> dict[str, float]:
            """As of DedicatedReplica, of the parts that it holds."""
            return self._bench.stats(list(self._loaded))

        async def ready(self) -> str:
            """Loads the part, if one is named; returns why that failed or it makes no images, or an empty text."""
            try:
                if wanted := serve.get_multiplexed_model_id():
                    replica: Replica = await self.part(wanted)
                    return replica.why()
            except MsdRayError as error:
                LOG.error("%s", error)
                return str(error)
            return ""

        async def make(self, calls: list[PartCall]) -> Answers:
            said = await asyncio.gather(*map(self._one, calls))
            return Answers([answer for answer, _ in said], [most for _, most in said])

        async def _one(self, call: PartCall) -> tuple[PartAnswer, int]:
            try:
                replica: Replica = await self.part(model_id(call.uri, call.part, call.version))
            except MsdRayError as error:
                LOG.error("%s", error)
                return away(str(error)), 0
            return await replica.answer(call), replica.most

    return Multiplexed
