"""Reads the state dict in a file of `torch.save` without executing anything of it.

The file is a zip archive: a pickle, and each storage as a file of its own, not compressed. `torch.load` executes
nothing either where it is asked to load weights only, but it inflates what is compressed, and lets tensors grow.
"""

import io
import mmap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from msd_ray.teachers.safe_pickle import DTYPES, STORAGES, Array, load, tensors

_HEADER = 30  # bytes before the name of each file in the archive, at whose end the lengths of name and extras stand
_LARGEST_PICKLE = 64 * 2**20


def read_state_dict(path: Path) -> dict[str, Array]:
    """The tensors by name, read-only. Raises one of `DAMAGES` where there is no such dict, with the reason."""
    with open(path, "rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # closed with the last array
        files = {entry.filename: entry for entry in zipfile.ZipFile(file).infolist()}
        pickles = [name for name in files if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("it is a zip archive, but not one of torch.save")
        begin, size = _place(content, files[pickles[0]])
    if size > _LARGEST_PICKLE:
        raise ValueError("its description is larger than that of any network")
    stored = _storages(content, files, pickles[0].removesuffix("data.pkl"))
    held = load(io.BytesIO(content[begin : begin + size]), size, tensors() | STORAGES, stored)
    if not isinstance(held, dict) or not held:
        raise ValueError("it holds no state dict")
    for name, value in held.items():
        if not (isinstance(name, str) and isinstance(value, np.ndarray)):
            raise ValueError(f"{str(name)[:40]!r} in it is not a tensor in float32 or float16")
    return held


def _storages(content: mmap.mmap, files: dict[str, zipfile.ZipInfo], root: str) -> Callable[[Any], Array]:
    def stored(pid: Any) -> Array:
        _, kind, key, _, count = pid
        begin, size = _place(content, files[f"{root}data/{key}"])
        dtype = DTYPES[kind]
        if type(count) is not int or count * dtype.itemsize != size:
            raise ValueError("one of its tensors has not the size that it says")
        return np.frombuffer(content, dtype, count, begin)

    return stored


def _place(content: mmap.mmap, entry: zipfile.ZipInfo) -> tuple[int, int]:
    """Where a file of the archive begins, and its size."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise ValueError("it is compressed, which torch.save never does")
    header = content[entry.header_offset : entry.header_offset + _HEADER]
    begin = (
        entry.header_offset
        + _HEADER
        + int.from_bytes(header[26:28], "little")
        + int.from_bytes(header[28:30], "little")
    )
    if begin + entry.file_size > len(content):
        raise ValueError("it ends early")
    return begin, entry.file_size
