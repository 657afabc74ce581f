"""Prompts on their way to students: embedded and placed, each once in a request."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from msd_ray.conditions import Condition
from msd_ray.errors import MsdRayError
from msd_ray.serving.protocol.refusal import away
from msd_ray.serving.service.routing import Key, Wanted
from msd_ray.serving.service.versions import Prepared, Version

LOG = logging.getLogger(__name__)
ANY_PROMPT = "a picture"


class Preparer:
    """One prompt after the other, in a thread of its own, since a text encoder takes long. For one event loop."""

    def __init__(self, threads: int) -> None:
        """threads: that text encoders compute with; other numbers may change last bits."""
        self._thread = ThreadPoolExecutor(1, "prompts", torch.set_num_threads, (threads,))

    async def prepared(self, wanted: Sequence[Wanted]) -> Mapping[Key, Prepared]:
        """Each of these, once. Raises Refusal if a text encoder cannot be had. If the call is cancelled, prompts that
        are not begun are dropped."""
        found = {}
        for one in {one.key: one for one in wanted}.values():
            found[one.key] = await self._one(one.version, one.condition)
        return found

    async def warm(self, versions: Sequence[Version]) -> None:
        """Loads what makes vectors of prompts, so that no request waits for that."""
        for version in versions:
            if version.rule is not None:
                await self._one(version, ANY_PROMPT)

    async def _one(self, version: Version, condition: Condition) -> Prepared:
        if not isinstance(condition, str):
            return version.prepared(condition)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, version.prepared, condition)
        except MsdRayError as error:
            LOG.error("%s", error)
            raise away("the text encoder is not ready; the gateway's log says why") from None
