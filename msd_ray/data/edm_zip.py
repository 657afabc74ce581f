"""What EDM's dataset_tool writes: a zip, or a folder, of images, and a dataset.json that gives the class of each.

dataset.json is {"labels": [["00000/img00000000.png", 6], ...]}, or has null for labels. The indices are those of sorted
names. A zip is read where it lies, one image at a time; nothing is unpacked to the disk.
"""

import json
import zipfile
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from msd_ray.data.encoded import SUFFIXES, ImageFiles, ImageOptions
from msd_ray.data.image_folder import ALL, files_of, images_below
from msd_ray.data.preprocessing import BrokenImage
from msd_ray.data.ranged_file import folder_and_name, ranged_file
from msd_ray.data.source import DataSet
from msd_ray.errors import UserError, one_line
from msd_ray.storage import Store

LABELS = "dataset.json"
LARGEST, LARGEST_LABELS = 1 << 28, 1 << 30
"""Bytes of an image's file, and of dataset.json."""
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError)
"""What Python's zipfile raises."""


@dataclass(frozen=True)
class EdmZip(ImageOptions):
    """folder: a .zip, or a folder; else what all formats of encoded images may say."""

    def load(self) -> DataSet:
        """Raises UserError where it is none, or an image has no class."""
        return self.data_set(lambda path: _in_zip(path) if path.lower().endswith(".zip") else _in_folder(path))


def _in_folder(path: str) -> ImageFiles:
    store = Store(path)
    found = images_below(store)
    try:
        labels = store.read(LABELS)
    except FileNotFoundError:
        raise UserError(f"data.folder: there is no {LABELS} in {store.uri}") from None
    return files_of(store, found, *_classes(labels, [name for name, _ in found], store.uri))


def _in_zip(path: str) -> ImageFiles:
    store, name = folder_and_name(path)
    where = f"{store.uri}/{name}"
    try:
        archive = zipfile.ZipFile(ranged_file(store, name))
    except _DAMAGED as error:
        raise UserError(f"{where} is no zip, or was cut short ({one_line(error)}); fetch it again") from None
    images = sorted(each for each in archive.namelist() if each.lower().endswith(SUFFIXES))
    if outside := [each for each in images if ".." in PurePosixPath(each).parts or PurePosixPath(each).is_absolute()]:
        raise UserError(f"{where} names a file outside of itself, {outside[0]!r}; do not trust it")
    if not images or LABELS not in archive.namelist():
        raise UserError(f"{where} has no {LABELS if images else 'image'}")
    classes, labels = _classes(_labels_in(archive, where), images, where)
    return ImageFiles(where, lambda index: images[index], classes, labels, partial(_read, archive, images))


def _labels_in(archive: zipfile.ZipFile, where: str) -> bytes:
    if (size := archive.getinfo(LABELS).file_size) > LARGEST_LABELS:
        raise UserError(f"{where}: {LABELS} unpacks to {size} bytes, which no set needs; do not trust it")
    try:
        return archive.read(LABELS)
    except _DAMAGED as error:
        raise UserError(f"{where}: {LABELS} cannot be read ({one_line(error)}); fetch it again") from None


def _read(archive: zipfile.ZipFile, images: list[str], index: int) -> bytes:
    """Raises BrokenImage where the archive is damaged there, or the image would unpack to very much."""
    if (size := archive.getinfo(images[index]).file_size) > LARGEST:
        raise BrokenImage(f"unpacks to {size} bytes")
    try:
        return archive.read(images[index])
    except _DAMAGED as error:
        raise BrokenImage(f"cannot be read ({one_line(error)})") from None


def _classes(labels: bytes, names: list[str], where: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Of the images with these names, and the classes' own names: one for all where the set has no classes."""
    said = _classes_in(labels, f"{where}: {LABELS}")
    if said is None:
        return np.zeros(len(names), np.int64), (ALL,)
    if missing := [name for name in names if name not in said]:
        raise UserError(f"{where}: {LABELS} gives no class for {missing[0]}")
    return np.array([said[name] for name in names], np.int64), ()


def _classes_in(labels: bytes, where: str) -> dict[str, int] | None:
    """The class of each file; None where the set has no classes."""
    try:
        said = json.loads(labels)["labels"]
        found = said and {str(name): label for name, label in said}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f'{where} is not {{"labels": [[name, class], ...]}}: {one_line(error)}') from None
    if found and (odd := [each for each in found.values() if type(each) is not int or not 0 <= each < 2**31]):
        raise UserError(f"{where}: classes are whole numbers from 0 on, not {odd[0]!r}")
    return found or None
