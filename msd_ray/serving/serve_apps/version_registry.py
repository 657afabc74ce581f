"""The registry of versions: one small deployment, whose argument says which versions get how much traffic.

Serve keeps the argument, so it outlives any process. To change the traffic, the registry is deployed again; since it
answers no callers, no request is lost. Gateways ask it twice a second and go on with the last answer.
"""

import asyncio
import logging
from typing import Any

from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from msd_ray.serving.serve_apps.app_names import REGISTRY
from msd_ray.serving.service.versions import Traffic

LOG = logging.getLogger(__name__)
PERIOD = 0.5  # seconds


class VersionRegistry:
    """The deployment. said: traffic as `Traffic.to_json` and the whole configuration."""

    def __init__(self, said: dict[str, Any]) -> None:
        self._said = said

    async def read(self) -> dict[str, Any]:
        return self._said


async def find_registry() -> DeploymentHandle[Any]:
    """Waits until one is deployed: a config file has all applications start at once."""
    while True:
        try:
            return await asyncio.to_thread(registry_handle)
        except RayServeException:
            await asyncio.sleep(PERIOD)


async def ask_registry(handle: DeploymentHandle[Any]) -> Traffic | None:
    """The registry's answer; None if it does not answer, which may pass."""
    try:
        said = await asyncio.wait_for(handle.read.remote(), 10 * PERIOD)
    except Exception as error:
        LOG.warning("the registry of versions does not answer: %s", type(error).__name__)
        return None
    return Traffic.from_json(said["traffic"])


def registry_handle() -> DeploymentHandle[Any]:
    """A handle of the registry. Blocks for a moment. Raises RayServeException if none is deployed."""
    return serve.get_app_handle(REGISTRY)
