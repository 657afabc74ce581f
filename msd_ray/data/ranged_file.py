"""A stored file as libraries want one: with a position, and read where it is."""

import io

from msd_ray.errors import UserError
from msd_ray.storage import LFS_POINTER, Store

BUFFER = 1 << 18
"""Bytes that are read at a time, since each read is a request where the store is far away."""


class RangedFile(io.RawIOBase):
    """The file `name` of a store."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name, self._size, self._position = store, name, store.sizes()[name], 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError("there is nothing before the beginning")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._store.read_range(self._name, self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def ranged_file(store: Store, name: str) -> io.BufferedReader:
    """The file `name` in `store`. Raises UserError where there is none, or only git LFS's pointer to it."""
    if name not in store.sizes():
        raise UserError(f"data.folder: there is no {name} in {store.uri}")
    refuse_pointer(store.read_range(name, 0, len(LFS_POINTER)), f"{store.uri}/{name}")
    return io.BufferedReader(RangedFile(store, name), BUFFER)


def refuse_pointer(beginning: bytes, where: str) -> None:
    """Raises UserError where a file that begins so is only git LFS's pointer to it."""
    if beginning.startswith(LFS_POINTER):
        raise UserError(f"{where} is a pointer of git LFS, not the file itself; run `git lfs pull` where it came from")


def folder_and_name(path: str) -> tuple[Store, str]:
    """Of a file at a path or URI."""
    folder, slash, name = path.rpartition("/")
    return Store(folder or slash or "."), name
