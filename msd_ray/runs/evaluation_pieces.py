"""The pieces of an evaluation, as slots get them. Their figures depend neither on who measures them, nor on
interruptions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from msd_ray.codecs import NO_CODEC, CodecConfig
from msd_ray.conditions import ConditionsConfig
from msd_ray.data import DataConfig
from msd_ray.evaluation import (
    EvaluationConfig,
)
from msd_ray.recipes import ClusterConfig
from msd_ray.storage import Store
from msd_ray.training.device import prepare_device


@dataclass(frozen=True)
class EvaluationInputs:
    """What all pieces of an evaluation share. cache: where feature networks and figures lie. cluster: where they are
    measured, a "student" being a process that measures. threads: of each. codec: what samples look like. conditions:
    what they were asked for."""

    data: DataConfig
    config: EvaluationConfig
    cache: Store
    cluster: ClusterConfig
    threads: int
    codec: CodecConfig = NO_CODEC
    conditions: ConditionsConfig = ConditionsConfig()

    def prepare_device(self) -> torch.device:
        return prepare_device(self.cluster.gpus_per_student, self.threads)


class OpenPiece(Protocol):
    """A piece in the process that measures it."""

    @property
    def nimg(self) -> int:
        """Samples done."""
        ...

    @property
    def bytes(self) -> int: ...

    def advance(self, hurried: Callable[[], bool]) -> None:
        """Measures some more samples, fewer once `hurried()`, and writes the state."""
        ...


class EvaluationPiece(Protocol):
    """A piece; small, since it is sent to the slot that measures it. row: the name of its row. images: its samples."""

    @property
    def basis(self) -> EvaluationInputs: ...

    @property
    def row(self) -> str: ...

    @property
    def images(self) -> int: ...

    def open(self, known: int = 0) -> OpenPiece:
        """The piece from its last written state. known: samples in a state that is known to be written. Raises
        TrainingError if that state is not visible here, so that the storage is not shared."""
        ...


Complete = Callable[[list[EvaluationPiece]], None]
"""Runs pieces to their end, in any order and any processes. Raises TrainingError if one cannot be measured."""


def here(pieces: list[EvaluationPiece]) -> None:
    """`Complete` in this process, one after the other."""
    for piece in pieces:
        opened = piece.open()
        while opened.nimg < piece.images:
            opened.advance(lambda: False)
