"""How a gateway reaches students: Serve handles, with a retry if a replica died."""

import asyncio
import logging
import math
import random
import time
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any

from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    RequestCancelledError,
)
from ray.serve.handle import DeploymentHandle

from msd_ray.serving.protocol.refusal import Refusal, away, busy
from msd_ray.serving.serve_apps.app_names import ANY_PART, model_id, part_app
from msd_ray.serving.serve_apps.request_metrics import GatewayMetrics
from msd_ray.serving.service.config import StudentConfig
from msd_ray.serving.service.gatherer import CALLS, Answers, Asked, Gatherer, call_of
from msd_ray.serving.service.hedge import Hedge
from msd_ray.serving.service.readiness import Readiness
from msd_ray.serving.service.routing import PartRequest
from msd_ray.serving.service.service import StudentImage
from msd_ray.serving.service.versions import Traffic, Version

LOG = logging.getLogger(__name__)
TRIES = 8  # an image follows from its seed, so it may be asked for again
FIRST, MOST = 0.05, 1.0  # seconds of the first pause and of the longest; pauses double
PROBE = 3.0  # seconds that students may take to say whether they are ready; a busy machine takes one, at times


class StudentHandles:
    """The `Students` of a gateway. To be used in one event loop."""

    def __init__(self, multiplexed: bool, config: StudentConfig) -> None:
        self._multiplexed, self._meters, self._hedge = multiplexed, GatewayMetrics(), Hedge()
        self._may_sleep, self._several = not config.min_replicas, config.max_replicas > 1
        # Serve adds replicas by the number of calls that are under way
        each = CALLS if config.min_replicas == config.max_replicas else math.ceil(config.ongoing)
        self._calls, self._queue = each * config.max_replicas, config.queue
        self._gatherers: dict[str, Gatherer] = {}
        self._handles: dict[str, DeploymentHandle[Any]] = {}

    async def reach(self, versions: tuple[Version, ...]) -> None:
        """Gets handles of these versions' students. Raises RayServeException if any are not deployed."""
        self._handles |= await asyncio.to_thread(self._handles_of, versions)

    def keep(self, versions: tuple[Version, ...]) -> None:
        """Forgets the students of other versions."""
        kept = {ANY_PART, *(of for version in versions for of in version.parts)}
        self._handles = {of: handle for of, handle in self._handles.items() if of in kept}

    async def ask(self, part_request: PartRequest, seconds: float) -> list[StudentImage]:
        """One image per item. Raises Refusal."""
        with self._meters.part_request(part_request):
            return await self._gatherer(part_request).ask(part_request, time.monotonic() + seconds)

    async def probe(self, version: Version, part: int, failed: bool) -> str:
        """Probes students, a second time if the first replica does not answer. It does not probe students that Serve
        may stop while they get no requests, nor multiplexed parts, unless they failed before."""
        if self._may_sleep and not failed:
            return ""
        handle = self._handle(version, part) if failed or not self._multiplexed else self._handles[ANY_PART]
        for _ in range(2):
            response = handle.ready.remote()
            try:
                return str(await asyncio.wait_for(response, PROBE))
            except TimeoutError:
                response.cancel()  # type: ignore[no-untyped-call]
                why = "no replica answers"
            except BackPressureError:
                return ""
            except (RayError, RayServeException) as error:
                why = f"its replica failed ({type(error).__name__})"
        return why

    def report(self, traffic: Traffic, readiness: Readiness) -> None:
        """Sets the metrics that say which students are ready."""
        self._meters.report(traffic, readiness)

    def check(self) -> None:
        """Students have processes of their own, which Serve checks."""

    def _gatherer(self, part_request: PartRequest) -> Gatherer:
        """A single replica that holds all parts is one place, else each part is."""
        one = self._multiplexed and not self._several
        place = ANY_PART if one else part_request.version.parts[part_request.part]
        if place not in self._gatherers:
            self._gatherers[place] = Gatherer(self._patiently, self._calls, self._queue)
        return self._gatherers[place]

    async def _patiently(self, asked: Sequence[Asked]) -> Answers:
        for pause in pauses():
            try:
                return await self._first(asked)
            except (RayActorError, DeploymentUnavailableError):
                self._meters.retried(asked[0].part_request.version.name)
                await asyncio.sleep(pause)
        raise away(f"no replica answered {TRIES} times in a row", 1.0)

    async def _first(self, asked: Sequence[Asked]) -> Answers:
        """The answer; if there are several replicas, of the first that answers."""

        def ask() -> Coroutine[Any, Any, Answers]:
            return self._once(asked)

        of = asked[0].part_request
        return await (self._hedge.first(of.version.parts[of.part], ask) if self._several else ask())

    async def _once(self, asked: Sequence[Asked]) -> Answers:
        of = asked[0].part_request
        response = self._handle(of.version, of.part).make.remote([call_of(each) for each in asked])
        try:
            answers: Answers = await response
        except asyncio.CancelledError:
            response.cancel()  # type: ignore[no-untyped-call]
            raise
        except BackPressureError:
            raise busy(f"the students of part {of.part} have too much to do", 0.5) from None
        except (RayActorError, DeploymentUnavailableError):
            raise
        except RequestCancelledError:  # with the request from outside that it belongs to
            raise asyncio.CancelledError from None
        except (RayError, RayServeException) as error:
            LOG.error("part %s of %s failed", of.part, of.version.name, exc_info=error)
            raise Refusal("INTERNAL", "the student failed; its log says why") from None
        return answers

    def _handle(self, version: Version, part: int) -> DeploymentHandle[Any]:
        if not self._multiplexed:
            if version.parts[part] not in self._handles:  # the request has waited since before an update
                raise away(f"version {version.name} is not served any more", 0.1)
            return self._handles[version.parts[part]]
        wanted = model_id(version.uri, part, version.parts[part])
        return self._handles[ANY_PART].options(multiplexed_model_id=wanted)

    def _handles_of(self, versions: tuple[Version, ...]) -> dict[str, DeploymentHandle[Any]]:
        if self._multiplexed:
            return {ANY_PART: self._handles.get(ANY_PART) or serve.get_app_handle(ANY_PART)}
        parts = {part for version in versions for part in version.parts}
        return {part: self._handles.get(part) or serve.get_app_handle(part_app(part)) for part in parts}


def pauses() -> Iterator[float]:
    """Seconds before each further try: none before the second, since another replica may be there; then growing and
    random ones, so that the callers of a dead replica do not all retry at once."""
    yield 0.0
    for i in range(TRIES - 1):
        yield min(FIRST * 2.0**i, MOST) * random.uniform(0.5, 1.0)
