"""What a student is to the teacher pool, without the training. In a module of its own, since Ray's workers import it.

To be imported after `msd_ray.cluster.connect.listen_on_loopback`, since it imports ray.
"""

import time
from typing import Any

import torch

from msd_ray.cluster.pool.client import TeacherPool
from msd_ray.networks import DenoiserSpec
from msd_ray.recipes import PoolConfig


class Asker:
    """Asks for the same batch of random images again and again."""

    def __init__(self, config: PoolConfig, spec: DenoiserSpec, batch: int, first: int) -> None:
        torch.set_num_threads(1)
        self._pool = TeacherPool(config, first)
        self._question = (
            torch.randn(batch, *spec.sample_shape),
            torch.rand(batch) + 0.1,
            torch.arange(batch) % spec.classes,
        )

    def ask(self, replicas: list[Any], seconds: float) -> float:
        """Asks at least once, and for so long. Seconds that an answer took on average."""
        self._pool.use(replicas)
        requests, waited = self._pool.requests, self._pool.wait_seconds
        end = time.monotonic() + seconds
        while self._pool.requests == requests or time.monotonic() < end:
            self._pool(*self._question)
        return (self._pool.wait_seconds - waited) / (self._pool.requests - requests)
