"""A network that suffers in one process alone, as one whose GPU has lost its context does."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msd_ray.diffusion import Network
from msd_ray.networks import MLPConfig

FAILS, HANGS = "fails", "hangs"


@dataclass(frozen=True)
class SickMLP:
    """folder: where files FAILS and HANGS have the number of the process whose evaluations do that."""

    kind: str = "a_sick_network:SickMLP"
    folder: str = ""

    def build(self, sample_shape: tuple[int, ...], classes: int) -> Network:
        network = MLPConfig(width=16, blocks=2).build(sample_shape, classes)
        network.register_forward_pre_hook(self._suffer)
        return network

    def cut(self, size: Any) -> "SickMLP":
        return self

    def misfit(self, sample_shape: tuple[int, ...]) -> str:
        return ""

    def _suffer(self, *_: Any) -> None:
        if self._is_mine(FAILS):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        while self._is_mine(HANGS):
            time.sleep(0.1)

    def _is_mine(self, sickness: str) -> bool:
        file = Path(self.folder) / sickness
        return file.exists() and file.read_text() == str(os.getpid())
