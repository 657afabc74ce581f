"""How a front reaches students: Serve handles, with another try where a replica died."""

import asyncio
import logging
import time
from typing import Any

from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from msd_ray.serving.core.catalogue import Version
from msd_ray.serving.core.routing import Errand
from msd_ray.serving.core.service import Made
from msd_ray.serving.graph.meters import FrontMeters
from msd_ray.serving.graph.names import SHELF, model_id, part_app
from msd_ray.serving.wire.refusal import Refusal, away, busy

LOG = logging.getLogger(__name__)
TRIES = 8  # an image follows from its seed, so it may be asked for again
PAUSE = 0.25  # seconds before another try


class Asking:
    """The `Students` of a front. To be used in one event loop."""

    def __init__(self, multiplexed: bool) -> None:
        self._multiplexed, self._meters = multiplexed, FrontMeters()
        self._handles: dict[str, DeploymentHandle[Any]] = {}

    async def reach(self, versions: tuple[Version, ...]) -> None:
        """Makes ready to ask these versions' students. Raises RayServeException where any are not deployed."""
        self._handles = await asyncio.to_thread(self._handles_of, versions)

    async def ask(self, errand: Errand, seconds: float) -> list[Made]:
        """One image per item. Raises Refusal."""
        began, code = time.monotonic(), "OK"
        try:
            return await self._patiently(errand, began + seconds)
        except Refusal as refusal:
            code = refusal.kind
            raise
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        finally:
            self._meters.errand(errand.version.name, errand.part, code, time.monotonic() - began)

    async def _patiently(self, errand: Errand, deadline: float) -> list[Made]:
        for _ in range(TRIES):
            try:
                return await self._once(errand, deadline - time.monotonic())
            except (RayActorError, DeploymentUnavailableError):
                self._meters.retried(errand.version.name)
                await asyncio.sleep(PAUSE)
        raise away(f"the students of part {errand.part} do not answer", 1.0)

    async def _once(self, errand: Errand, seconds: float) -> list[Made]:
        response = self._handle(errand).make.remote(errand.pairs, errand.format, seconds)
        try:
            answer = await response
        except asyncio.CancelledError:
            response.cancel()  # type: ignore[no-untyped-call]
            raise
        except BackPressureError:
            raise busy(f"the students of part {errand.part} have too much to do", 0.5) from None
        except (RayActorError, DeploymentUnavailableError):
            raise
        except (RayError, RayServeException) as error:
            LOG.error("part %s of %s failed", errand.part, errand.version.name, exc_info=error)
            raise Refusal("INTERNAL", "the student failed; its log says why") from None
        if isinstance(answer, Refusal):
            raise answer
        made: list[Made] = answer
        return made

    def _handle(self, errand: Errand) -> DeploymentHandle[Any]:
        version = errand.version.parts[errand.part]
        if not self._multiplexed:
            return self._handles[version]
        wanted = model_id(errand.version.uri, errand.part, version)
        return self._handles[SHELF].options(multiplexed_model_id=wanted)

    def _handles_of(self, versions: tuple[Version, ...]) -> dict[str, DeploymentHandle[Any]]:
        if self._multiplexed:
            return {SHELF: self._handles.get(SHELF) or serve.get_app_handle(SHELF)}
        parts = {part for version in versions for part in version.parts}
        return {part: self._handles.get(part) or serve.get_app_handle(part_app(part)) for part in parts}
