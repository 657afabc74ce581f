"""Which versions are served, and how the traffic is split: one small deployment, whose argument says it.

Serve keeps the argument, so it outlives any process; to change the traffic is to deploy the ledger anew, which takes
nobody's requests. Fronts ask for it twice a second and go by what they heard last.
"""

import asyncio
import logging
from typing import Any

from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from msd_ray.serving.core.catalogue import Traffic
from msd_ray.serving.graph.names import LEDGER

LOG = logging.getLogger(__name__)
PERIOD = 0.5  # seconds


class Ledger:
    """The deployment. said: traffic as `Traffic.to_json` and the whole configuration."""

    def __init__(self, said: dict[str, Any]) -> None:
        self._said = said

    async def read(self) -> dict[str, Any]:
        return self._said


async def find_ledger() -> DeploymentHandle[Any]:
    """Waits until one is deployed: a config file has all applications start at once."""
    while True:
        try:
            return await asyncio.to_thread(ledger_handle)
        except RayServeException:
            await asyncio.sleep(PERIOD)


async def ask_ledger(handle: DeploymentHandle[Any]) -> Traffic | None:
    """None where it does not answer, which passes."""
    try:
        said = await asyncio.wait_for(handle.read.remote(), 10 * PERIOD)
    except Exception as error:
        LOG.warning("the ledger does not answer: %s", type(error).__name__)
        return None
    return Traffic.from_json(said["traffic"])


def ledger_handle() -> DeploymentHandle[Any]:
    """Blocks for a moment. Raises RayServeException where none is deployed."""
    return serve.get_app_handle(LEDGER)
