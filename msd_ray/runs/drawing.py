"""The samples that a report shows."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from msd_ray.errors import CorruptError
from msd_ray.networks.weights import StoredWeights, to_chunks
from msd_ray.runs.measuring import Basis, opened
from msd_ray.runs.sources import Source
from msd_ray.storage import Store, read_manifest, write_bundle

DRAWN = "samples.safetensors"


@dataclass(frozen=True)
class Drawing:
    """The first samples of each class, for the report. sources: which together make them. each: of a class."""

    basis: Basis
    row: str
    sources: tuple[Source, ...]
    classes: int
    each: int
    folder: Store

    @property
    def images(self) -> int:
        return self.classes * self.each

    def kept(self) -> Tensor | None:
        """[classes, each, ...]; None where they were not made yet, or are damaged."""
        try:
            x: Tensor = StoredWeights(self.folder, read_manifest(self.folder), DRAWN).read()["x"]
        except (FileNotFoundError, CorruptError):
            return None
        return x.reshape(self.each, self.classes, *x.shape[1:]).transpose(0, 1)

    def open(self, known: int = 0) -> "OpenDrawing":
        return OpenDrawing(self, 0 if self.kept() is None else self.images)


@dataclass
class OpenDrawing:
    """nimg: all of them, once they are made."""

    drawing: Drawing
    nimg: int
    bytes: int = 0

    def advance(self, hurried: Callable[[], bool]) -> None:
        drawing, basis = self.drawing, self.drawing.basis
        device, made = basis.prepare_device(), dict[int, Tensor]()
        for source in drawing.sources:
            numbers, make = source.numbers(drawing.images), opened(source, basis.data, str(device))
            for some in np.array_split(numbers, -(-len(numbers) // basis.config.batch)):
                made |= zip(some.tolist(), make(some).x, strict=True)
        x = torch.stack([made[number] for number in range(drawing.images)])
        write_bundle(drawing.folder, {"drawn": drawing.images}, [(DRAWN, partial(to_chunks, {"x": x}))])
        self.nimg = drawing.images
