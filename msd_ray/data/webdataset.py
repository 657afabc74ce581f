"""Tar shards as the webdataset library writes them: files of equal name up to the first dot are one sample, of which
one is the image and `cls` has the number of the class, or `json` has it as `label`.

Shards are read where they lie, one image at a time. All headers are read when the set is loaded.
"""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch

import numpy as np

from msd_ray.data.encoded import SUFFIXES, ImageFiles, ImageOptions
from msd_ray.data.ranged_file import folder_and_name, ranged_file
from msd_ray.data.source import DataSet
from msd_ray.errors import UserError, one_line
from msd_ray.storage import Store

LARGEST_LABEL = 1 << 20
"""Bytes of a .cls or .json."""


@dataclass(frozen=True)
class WebDataset(ImageOptions):
    """folder: with all its .tar, one file, or a pattern such as /data/train-*.tar; else what all formats of encoded
    images may say."""

    def load(self) -> DataSet:
        """Raises UserError where a shard is none, or a sample lacks its image or its class."""
        return self.data_set(_in_shards)


@dataclass
class _Sample:
    """What is known of one: where its image lies, and its class."""

    name: str
    store: Store
    shard: str
    begin: int = 0
    size: int = 0
    label: int | None = None

    def read(self) -> bytes:
        return self.store.read_range(self.shard, self.begin, self.size)


def _in_shards(path: str) -> ImageFiles:
    store, shards = matching(path, ".tar")
    samples = [sample for shard in shards for sample in _samples(store, shard)]
    for sample in samples:
        if not sample.size or sample.label is None:
            lacking = "image" if not sample.size else "class"
            raise UserError(f"{store.uri}/{sample.shard}: {sample.name} has no {lacking}")
    if not samples:
        raise UserError(f"{store.uri}/{shards[0]} has no sample")
    classes = np.array([sample.label for sample in samples], np.int64)
    return ImageFiles(store.uri, lambda index: samples[index].name, classes, (), lambda index: samples[index].read())


def matching(path: str, suffix: str) -> tuple[Store, list[str]]:
    """The files at a path: all of a folder that end so, one, or those that a pattern names; sorted. Raises UserError
    where there are none."""
    whole = path.endswith(suffix) or "*" in path
    store, pattern = folder_and_name(path) if whole else (Store(path), f"*{suffix}")
    names = sorted(name for name in store.sizes() if fnmatch(name, pattern))
    if not names:
        raise UserError(f"data.folder: there is no {pattern} in {store.uri}")
    return store, names


def _samples(store: Store, shard: str) -> Iterator[_Sample]:
    where = f"{store.uri}/{shard}"
    try:
        with tarfile.open(fileobj=ranged_file(store, shard), mode="r:") as archive:
            yield from _gathered(archive, store, shard)
            if store.read_range(shard, archive.offset, tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"no header at byte {archive.offset}")
    except (tarfile.TarError, EOFError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{where} is no tar of samples, or was cut short ({one_line(error)})") from None


def _gathered(archive: tarfile.TarFile, store: Store, shard: str) -> Iterator[_Sample]:
    """Files of one name stand next to each other."""
    sample: _Sample | None = None
    for member in archive:
        folder, slash, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        if not member.isfile() or not stem:
            continue
        if sample is None or sample.name != f"{folder}{slash}{stem}":
            if sample:
                yield sample
            sample = _Sample(f"{folder}{slash}{stem}", store, shard)
        if f".{ending.lower()}" in SUFFIXES:
            sample.begin, sample.size = member.offset_data, member.size
        elif ending in ("cls", "json") and sample.label is None:
            sample.label = _label(archive, member, ending)
    if sample:
        yield sample


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo, ending: str) -> int | None:
    file = archive.extractfile(member)
    said = json.loads(file.read(LARGEST_LABEL)) if file else None
    label = said.get("label") if isinstance(said, dict) else said
    if label is not None and (type(label) is not int or not 0 <= label < 2**31):
        raise ValueError(f"{member.name}: classes are whole numbers from 0 on, not {label!r}")
    return label
