"""The students of a gateway that has them in its own process: no call leaves it, and they share its fate."""

import asyncio
import logging
import time
from collections.abc import Sequence

from msd_ray.errors import MsdRayError
from msd_ray.serving.protocol.refusal import away
from msd_ray.serving.serve_apps.replicas import TRY_AGAIN, LoadedStudents, Replica
from msd_ray.serving.serve_apps.request_metrics import GatewayMetrics
from msd_ray.serving.service.config import StudentConfig
from msd_ray.serving.service.gatherer import CALLS, Answers, Asked, Gatherer, PartAnswer, PartCall, call_of
from msd_ray.serving.service.readiness import Readiness
from msd_ray.serving.service.routing import PartRequest
from msd_ray.serving.service.service import StudentImage
from msd_ray.serving.service.versions import Traffic, Version

LOG = logging.getLogger("ray.serve")  # whose lines Serve shows and keeps


class OwnStudents:
    """The `Students` of a gateway. A part that cannot be loaded is tried again every `TRY_AGAIN` seconds. To be used in
    one event loop."""

    def __init__(self, config: StudentConfig) -> None:
        self._bench, self._meters = LoadedStudents(config), GatewayMetrics()
        self._gatherer = Gatherer(self._make, CALLS, config.queue)  # fuller evaluations: 1.8 times the images a second
        self._replicas: dict[str, Replica] = {}
        self._failed: dict[str, tuple[str, float]] = {}  # why, and when

    async def reach(self, versions: tuple[Version, ...]) -> None:
        """Loads what these versions have."""
        wanted = {of: (version, part) for version in versions for part, of in enumerate(version.parts)}
        for of in wanted.keys() - self._replicas.keys():
            await self._load(*wanted[of])

    def keep(self, versions: tuple[Version, ...]) -> None:
        """Lets go of what other versions have. Their requests under way still get their images."""
        kept = {of for version in versions for of in version.parts}
        self._replicas = {of: replica for of, replica in self._replicas.items() if of in kept}

    async def ask(self, part_request: PartRequest, seconds: float) -> list[StudentImage]:
        """One image per item. Raises Refusal."""
        with self._meters.part_request(part_request):
            return await self._gatherer.ask(part_request, time.monotonic() + seconds)

    async def probe(self, version: Version, part: int, failed: bool) -> str:
        """Why a part's students cannot be asked now; empty where they can."""
        of = version.parts[part]
        _, last = self._failed.get(of, ("", 0.0))
        if of not in self._replicas and time.monotonic() - last > TRY_AGAIN:
            await self._load(version, part)
        return self._replicas[of].why() if of in self._replicas else self._why(of)

    def report(self, traffic: Traffic, readiness: Readiness) -> None:
        """Sets the metrics that say which students are ready."""
        self._meters.report(traffic, readiness)

    def check(self) -> None:
        """Raises RuntimeError where students will not make any more images: only another process can help then."""
        for replica in self._replicas.values():
            replica.check()

    async def _make(self, asked: Sequence[Asked]) -> Answers:
        said = await asyncio.gather(*(self._one(call_of(each)) for each in asked))
        return Answers([answer for answer, _ in said], [most for _, most in said])

    async def _one(self, call: PartCall) -> tuple[PartAnswer, int]:
        replica = self._replicas.get(call.version)
        return (await replica.answer(call), replica.most) if replica else (away(self._why(call.version)), 0)

    def _why(self, of: str) -> str:
        return self._failed.get(of, ("its students are not loaded yet", 0.0))[0]

    async def _load(self, version: Version, part: int) -> None:
        of = version.parts[part]
        try:
            self._replicas[of] = await self._bench.load(version.uri, part, of)
        except MsdRayError as error:
            LOG.error("%s", error)
            self._failed[of] = str(error), time.monotonic()
