"""The interface between a Store and a file system, and the two file systems that are not S3."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from pyarrow import fs

from msd_ray.storage.local_disk import Change, append_lines, delete_durably, update_locked, write_atomically

_NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
Pieces = Iterable[bytes | memoryview]


class OpenFile(Protocol):
    """Content that is read a piece at a time."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""
        ...


class Files(Protocol):
    """Files by their whole path, / between its parts. All failures are OSError or pyarrow's ArrowException."""

    def read(self, path: str) -> bytes | None:
        """The content; None if there is no such file."""
        ...

    def read_range(self, path: str, begin: int, size: int) -> bytes | None:
        """`size` bytes from byte `begin` on, fewer at the file's end; None if there is none."""
        ...

    def opened(self, path: str, position: int) -> OpenFile | None:
        """A file, opened for reading from byte `position` on; None if there is none."""
        ...

    def write(self, path: str, pieces: Pieces) -> None:
        """Writes a file whole or not at all, over an old file if there is one; makes missing directories. Errors of
        `pieces` are passed on."""
        ...

    def append(self, path: str, lines: bytes) -> bool:
        """Appends whole lines to a text file; returns False if this file system cannot append."""
        ...

    def update(self, path: str, change: Change) -> bool:
        """Replaces a file by change(its content), None standing for no file. Returns whether no other process could
        write in between."""
        ...

    def listed(self, path: str) -> dict[str, int | None]:
        """The names in a directory: for files with their bytes, for directories with None. Empty if it is missing."""
        ...

    def exists(self, path: str) -> bool:
        """Whether there is a file or directory of this path."""
        ...

    def remove(self, path: str) -> None:
        """Removes a file, or a directory with all in it; one that is missing is fine."""
        ...

    def remove_file(self, path: str) -> None:
        """As `remove`, for a path that is no directory."""
        ...


class LocalFiles:
    """A disk that this machine has mounted."""

    def read(self, path: str) -> bytes | None:
        try:
            return Path(path).read_bytes()
        except _NO_FILE:
            return None

    def read_range(self, path: str, begin: int, size: int) -> bytes | None:
        try:
            with open(path, "rb", buffering=0) as file:
                return os.pread(file.fileno(), size, begin)
        except _NO_FILE:
            return None

    def opened(self, path: str, position: int) -> OpenFile | None:
        try:
            file = open(path, "rb")  # noqa: SIM115 (the reader closes it at its end)
        except _NO_FILE:
            return None
        file.seek(position)
        return file

    def write(self, path: str, pieces: Pieces) -> None:
        write_atomically(Path(path), pieces)

    def append(self, path: str, lines: bytes) -> bool:
        append_lines(Path(path), lines)
        return True

    def update(self, path: str, change: Change) -> bool:
        return update_locked(Path(path), change)

    def listed(self, path: str) -> dict[str, int | None]:
        try:
            with os.scandir(path) as entries:
                return dict(filter(None, map(_listed, entries)))
        except FileNotFoundError:
            return {}

    def exists(self, path: str) -> bool:
        return Path(path).exists()

    def remove(self, path: str) -> None:
        delete_durably(Path(path))

    remove_file = remove


class ArrowFiles:
    """Any filesystem of pyarrow, such as Google's and Azure's object stores."""

    def __init__(self, filesystem: fs.FileSystem) -> None:
        self.filesystem = filesystem

    def read(self, path: str) -> bytes | None:
        file = self.opened(path, 0)
        return file and bytes(file.read())

    def read_range(self, path: str, begin: int, size: int) -> bytes | None:
        file = self.opened(path, 0)
        return file and bytes(file.read_at(size, min(begin, file.size())))

    def opened(self, path: str, position: int) -> Any:
        if self._kind(path) != fs.FileType.File:
            return None
        file = self.filesystem.open_input_file(path)  # an input stream would give pieces of 256 KiB
        file.seek(position)
        return file

    def write(self, path: str, pieces: Pieces) -> None:
        """If `pieces` raises, pyarrow still completes the file: it then has only its beginning."""
        self.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        # one put: an object store shows the object only once the stream is closed
        with self.filesystem.open_output_stream(path) as stream:
            for piece in pieces:
                stream.write(piece)

    def append(self, path: str, lines: bytes) -> bool:
        return False

    def update(self, path: str, change: Change) -> bool:
        """Always False: pyarrow can neither lock nor write on a condition."""
        old = self.read(path)
        new = change(old)
        if new is not None:
            self.write(path, (new,))
        elif old is not None:
            self.remove(path)
        return False

    def listed(self, path: str) -> dict[str, int | None]:
        found = self.filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return {info.base_name: info.size if info.type == fs.FileType.File else None for info in found}

    def exists(self, path: str) -> bool:
        return bool(self._kind(path) != fs.FileType.NotFound)

    def remove(self, path: str) -> None:
        kind = self._kind(path)
        if kind == fs.FileType.Directory:
            self.filesystem.delete_dir(path)
        elif kind == fs.FileType.File:
            self.filesystem.delete_file(path)

    remove_file = remove

    def _kind(self, path: str) -> Any:
        return self.filesystem.get_file_info(path).type


def _listed(entry: os.DirEntry[str]) -> tuple[str, int | None] | None:
    """Name and size; None for a file that another process has just removed."""
    try:
        return entry.name, None if entry.is_dir() else entry.stat().st_size
    except FileNotFoundError:
        return None
