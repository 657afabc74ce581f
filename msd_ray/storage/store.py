"""A directory on a local disk or in an object store, with atomic writes."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
from pyarrow import fs

from msd_ray.errors import UserError
from msd_ray.storage.local import TEMPORARY, Change, delete_durably, update_locked, write_atomically
from msd_ray.storage.patience import one_line, patiently

CHUNK = 1 << 24
"""Bytes that are read or written at a time where a file may be large."""
Chunks = Callable[[], Iterable[bytes | memoryview]]
"""Gives the content of a file from its beginning, each time it is called."""


class Store:
    """One directory, which need not exist yet. Pickles by uri (and by `filesystem` where one was given)."""

    def __init__(self, uri: str, filesystem: fs.FileSystem | None = None) -> None:
        """uri: a local path (relative ones and ~ are resolved now) or s3://, gs://, file:// and the like.

        With `filesystem`, uri is a path on it. Raises UserError for a uri that no filesystem can be made of.
        """
        self._given = filesystem
        self._filesystem, self._path = _resolve(uri) if filesystem is None else (filesystem, uri)
        self.uri = uri if _is_uri(uri) else self._path

    def __reduce__(self) -> tuple[type["Store"], tuple[str, fs.FileSystem | None]]:
        return Store, (self.uri, self._given)

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def child(self, name: str) -> "Store":
        """The directory `name` in this one. Raises ValueError for a name that would lead elsewhere."""
        child = Store.__new__(Store)  # not Store(uri), which would connect once more
        child._given, child._filesystem = self._given, self._filesystem
        child._path = self._at(name)
        # the uri of an object store may end in ?region=...
        base, mark, query = self.uri.partition("?") if _is_uri(self.uri) else (self.uri, "", "")
        child.uri = _joined(base, quote(name)) + mark + query if _is_uri(self.uri) else child._path
        return child

    def read(self, name: str) -> bytes:
        """The content of a file; raises FileNotFoundError if there is none, UserError if it cannot be read."""
        path = self._at(name)
        content = patiently("read", path, lambda: self._content(path))
        if content is None:
            raise FileNotFoundError(f"no file {path}")
        return content

    def write(self, name: str, data: bytes) -> None:
        """Puts a file in place whole or not at all, over an old one if need be; creates missing directories.

        Raises UserError where the place cannot be written to (read-only, full, no permission, failing for long).
        """
        self.write_chunks(name, lambda: (data,))

    def write_chunks(self, name: str, chunks: Chunks) -> None:
        """As `write`, for a file that need not fit into memory; `chunks` is called again where a try fails.

        What `chunks` raises is passed on. On a local disk nothing is left then; an object store may show the beginning
        of the file.
        """
        path = self._at(name)
        patiently("write", path, lambda: self._put(path, chunks()))

    def read_chunks(self, name: str) -> Iterator[bytes]:
        """The content of a file, at most CHUNK bytes at a time; raises as `read`. After a failure that passes it is
        opened again and read on from where it was."""
        path, position = self._at(name), 0
        opened: Any = None

        def next_chunk() -> bytes | None:
            nonlocal opened
            try:
                opened = opened or self._opened(path, position)
                return bytes(opened.read(CHUNK)) if opened else None
            except OSError:
                opened = None
                raise

        while chunk := patiently("read", path, next_chunk):
            position += len(chunk)
            yield chunk
        if chunk is None:
            raise FileNotFoundError(f"no file {path}")

    def update(self, name: str, change: Change) -> bool:
        """Replaces a small file by change(its content), None standing for no file; creates missing directories.

        Returns whether it was made sure that no other process updated the file between reading and writing. It is on
        local disks and network file systems with locks, not on object stores. `change` may be called more than once;
        what it raises is passed on, and the file is left as it is. Raises UserError as `write`.
        """
        path = self._at(name)
        if isinstance(self._filesystem, fs.LocalFileSystem):
            return patiently("write", path, lambda: update_locked(Path(path), change))
        patiently("write", path, lambda: self._put_changed(path, change))
        return False

    def names(self) -> list[str]:
        """Sorted names of the files and directories in here; none where this directory is missing."""
        selector = fs.FileSelector(self._path, allow_not_found=True)
        found = patiently("list", self._path, lambda: self._filesystem.get_file_info(selector))
        return sorted(info.base_name for info in found if not info.base_name.startswith(TEMPORARY))

    def sizes(self) -> dict[str, int]:
        """Bytes of each file in here, by its name, from one look at the directory."""
        selector = fs.FileSelector(self._path, allow_not_found=True)
        found = patiently("list", self._path, lambda: self._filesystem.get_file_info(selector))
        return {info.base_name: info.size for info in found if info.type == fs.FileType.File}

    def exists(self, name: str) -> bool:
        """Whether there is a file or directory `name`."""
        path = self._at(name)
        return bool(patiently("read", path, lambda: self._kind(path)) != fs.FileType.NotFound)

    def delete(self, name: str) -> None:
        """Removes a file, or a directory with all in it; one that is missing is fine. Raises UserError as `write`."""
        path = self._at(name)
        patiently("delete", path, lambda: self._remove(path))

    def _kind(self, path: str) -> Any:
        return self._filesystem.get_file_info(path).type

    def _content(self, path: str) -> bytes | None:
        if self._kind(path) != fs.FileType.File:
            return None
        with self._filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())

    def _opened(self, path: str, position: int) -> Any:
        """The file, to be read from `position` on; None if there is none."""
        if self._kind(path) != fs.FileType.File:
            return None
        file = self._filesystem.open_input_file(path)
        file.seek(position)
        return file

    def _put(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        if isinstance(self._filesystem, fs.LocalFileSystem):
            write_atomically(Path(path), chunks)
            return
        self._filesystem.create_dir(self._path, recursive=True)
        # one put: an object store shows the object only once the stream was closed
        with self._filesystem.open_output_stream(path) as stream:
            for chunk in chunks:
                stream.write(chunk)

    def _put_changed(self, path: str, change: Change) -> None:
        old = self._content(path)
        new = change(old)
        if new is not None:
            self._put(path, (new,))
        elif old is not None:
            self._remove(path)

    def _remove(self, path: str) -> None:
        if isinstance(self._filesystem, fs.LocalFileSystem):
            delete_durably(Path(path))
            return
        kind = self._kind(path)
        if kind == fs.FileType.Directory:
            self._filesystem.delete_dir(path)
        elif kind == fs.FileType.File:
            self._filesystem.delete_file(path)

    def _at(self, name: str) -> str:
        if not name or name in {".", ".."} or "/" in name or "\0" in name or name.startswith(TEMPORARY):
            raise ValueError(f"not a name for a stored file: {name!r}")
        return _joined(self._path, name)


def _joined(directory: str, name: str) -> str:
    return directory + name if directory.endswith("/") or not directory else f"{directory}/{name}"


def _is_uri(uri: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", uri) is not None


def _resolve(uri: str) -> tuple[fs.FileSystem, str]:
    if not uri or "\0" in uri:
        raise UserError(f"not a path or URI: {uri!r}")
    if not _is_uri(uri):
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"cannot use {uri} as a place to store files: {one_line(error)}") from error
    if not path:
        raise UserError(f"cannot use {uri} as a place to store files: it names no bucket or directory")
    return filesystem, path
