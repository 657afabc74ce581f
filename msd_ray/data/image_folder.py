"""A folder of images: the first folder below it names the class, and sorted names give the indices. Images that lie in
no folder are all of one class, or are left alone where there are folders."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from msd_ray.data.encoded import SUFFIXES, ImageFiles, ImageOptions
from msd_ray.data.source import DataSet
from msd_ray.errors import UserError
from msd_ray.storage import Store

DEEPEST = 16
"""Folders in each other; more are a link that leads back."""
ALL = "all"
"""The class of images that have none."""


@dataclass(frozen=True)
class ImageFolder(ImageOptions):
    """What all formats of encoded images may say."""

    def load(self) -> DataSet:
        """Raises UserError where there is no such folder, or a class without an image."""
        return self.data_set(_by_first_folder)


def _by_first_folder(folder: str) -> ImageFiles:
    store = Store(folder)
    found = images_below(store)
    inner = [each for each in found if "/" in each[0]]
    if not inner:
        return files_of(store, found, np.zeros(len(found), np.int64), (ALL,))
    labels = sorted(name for name, size in store.listed().items() if size is None and not name.startswith("."))
    number = {label: i for i, label in enumerate(labels)}
    classes = np.array([number[path.partition("/")[0]] for path, _ in inner], np.int64)
    return files_of(store, inner, classes, tuple(labels))


def files_of(
    store: Store, found: list[tuple[str, Store]], classes: NDArray[np.int64], labels: tuple[str, ...]
) -> ImageFiles:
    """Images of a folder. found: as `images_below` gives them."""

    def read(index: int) -> bytes:
        path, place = found[index]
        try:
            return place.read(path.rpartition("/")[2])
        except FileNotFoundError:
            raise UserError(f"{store.uri}: there is no {path} any more") from None

    return ImageFiles(store.uri, lambda index: found[index][0], classes, labels, read)


def images_below(store: Store) -> list[tuple[str, Store]]:
    """The images in a folder and in those below it: their paths from it on, sorted, and the folder that each lies in.
    Raises UserError where there are none."""
    found = sorted(_below(store, ""), key=lambda each: each[0])
    if not found:
        raise UserError(f"data.folder: there is no image in {store.uri}")
    return found


def _below(store: Store, before: str) -> Iterator[tuple[str, Store]]:
    if before.count("/") > DEEPEST:
        raise UserError(f"data.folder: {store.uri} lies more than {DEEPEST} folders deep; does a link lead back?")
    for name, size in store.listed().items():
        if size is None and not name.startswith("."):
            yield from _below(store.child(name), f"{before}{name}/")
        elif name.lower().endswith(SUFFIXES) and not name.startswith("."):
            yield f"{before}{name}", store
