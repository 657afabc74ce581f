"""Images that lie in files of their own kind (PNG, JPEG, ...) and are decoded when they are asked for.

A broken image is skipped: the next of its class that is not broken takes its place, each time, so that which samples an
update sees still follows from their indices alone.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from msd_ray.data.labelled import LOOKED_AT, Labelled, data_set
from msd_ray.data.preprocessing import BrokenImage, HostileImage, Preprocessing, Way, opened
from msd_ray.data.source import DataSet, Indices
from msd_ray.errors import UserError
from msd_ray.ranges import Width

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".gif", ".tif", ".tiff")
TOLD = 10
"""Broken images that are named in the log; more are only counted."""
log = logging.getLogger(__name__)
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class ImageFiles:
    """Where a format keeps its images. where: for messages. classes: [N]. labels: the name of each
    class, none where they have none. name, read: give an image's name and the content of its file, by its index; may be
    called from several threads."""

    where: str
    name: Callable[[int], str]
    classes: NDArray[np.int64]
    labels: tuple[str, ...]
    read: Callable[[int], bytes]


@dataclass(frozen=True)
class ImageOptions:
    """folder: where the images lie. size: of a side, in pixels; needed by every preprocessing but `none`. channels: if
    it is not said, 3 where one of the images that are looked at has colours. held_out: where others of the same kind
    lie, that are never trained on. labels: names of the classes in their order."""

    folder: str
    size: Width | None = None
    preprocessing: Way = "none"
    channels: Literal[1, 3] | None = None
    held_out: str = ""
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.preprocessing != "none" and self.size is None:
            raise ValueError(f"size must say how many pixels a side is to have after {self.preprocessing}")

    def data_set(self, files_at: Callable[[str], ImageFiles]) -> DataSet:
        """files_at: the images at a path. Raises UserError where they make no data set."""
        files = files_at(self.folder)
        prepare = self._preprocessing(files)
        train = Labelled(Encoded(files, prepare), files.classes, files.where)
        if not self.held_out:
            return data_set(train, None, self.labels or files.labels)
        others = files_at(self.held_out)
        held_out = Labelled(Encoded(others, prepare), _renumbered(others, files.labels), others.where)
        return data_set(train, held_out, self.labels or files.labels)

    def _preprocessing(self, files: ImageFiles) -> Preprocessing:
        """As the options and the images that are looked at say. Raises UserError where one of these is hostile, or many
        are broken."""
        n, faults = len(files.classes), list[str]()
        looked_at = np.unique(np.linspace(0, n - 1, LOOKED_AT).astype(np.int64)).tolist()
        heads = [head for index in looked_at if (head := _tried(files, index, opened, faults))]
        if heads:
            faults.clear()
            prepare = self._as_in(heads)
            for index in looked_at:
                _tried(files, index, prepare, faults)
        if not heads or len(faults) > len(looked_at) // 4:
            raise UserError(
                f"{files.where}: of {len(looked_at)} images that were looked at {len(faults)} cannot be used, first "
                f"{faults[0]}; choose data.options.preprocessing and size, or remove them"
            )
        return prepare

    def _as_in(self, heads: Sequence[Image]) -> Preprocessing:
        """The size is that of the first, and there are colours where one of them has some."""
        size = (self.size, self.size) if self.size else (heads[0].height, heads[0].width)
        coloured = any(head.mode not in ("1", "L", "LA") for head in heads)
        return Preprocessing(self.preprocessing, size, self.channels or (3 if coloured else 1))


class Encoded:
    """Rows of image files. broken: those that were met so far, and what is wrong with each."""

    def __init__(self, files: ImageFiles, prepare: Preprocessing) -> None:
        self.files, self._prepare = files, prepare
        self.shape = (prepare.channels, *prepare.size)
        self.broken = dict[int, str]()

    def __len__(self) -> int:
        return len(self.files.classes)

    def name(self, index: int) -> str:
        """Of an image's file."""
        return self.files.name(index)

    def take(self, indices: Indices) -> Tensor:
        found = np.empty((len(indices), *self.shape), dtype=np.uint8)
        for row, index in zip(found, indices.tolist(), strict=True):
            row[:] = self._image(index)
        return torch.from_numpy(found)

    def _image(self, index: int) -> NDArray[np.uint8]:
        for candidate in self._candidates(index):
            if candidate not in self.broken:
                try:
                    return self._prepare(self.files.read(candidate))
                except BrokenImage as fault:
                    self._skip(candidate, str(fault))
        raise UserError(f"{self.files.where}: class {self.files.classes[index]} has no image that is not broken")

    def _candidates(self, index: int) -> Iterator[int]:
        """The image, then those of its class after it, then those before."""
        yield index
        others = np.flatnonzero(self.files.classes == self.files.classes[index])
        yield from np.roll(others, -int(np.searchsorted(others, index)) - 1)[:-1].tolist()

    def _skip(self, index: int, fault: str) -> None:
        self.broken[index] = f"{self.files.name(index)} {fault}"
        if len(self.broken) <= TOLD:
            log.warning("%s: skipped a broken image: %s", self.files.where, self.broken[index])
        if len(self.broken) == TOLD:
            log.warning("%s: more broken images will only be counted", self.files.where)


def _tried(files: ImageFiles, index: int, use: Callable[[bytes], _Made], faults: list[str]) -> _Made | None:
    """What `use` makes of an image; None where it is broken, which `faults` then says. Raises UserError where it is
    hostile."""
    try:
        return use(files.read(index))
    except HostileImage as fault:
        raise UserError(f"{files.where}: {files.name(index)} {fault}") from None
    except BrokenImage as fault:
        faults.append(f"{files.name(index)} {fault}")
        return None


def _renumbered(others: ImageFiles, labels: tuple[str, ...]) -> NDArray[np.int64]:
    """The classes of images that are held out, by the numbers that the classes of the others have."""
    if strange := sorted(set(others.labels) - set(labels)):
        raise UserError(f"{others.where}: there is no image of class {strange[0]} to train on")
    numbers = np.array([labels.index(label) for label in others.labels], dtype=np.int64)
    return numbers[others.classes] if others.labels else others.classes
