"""A directory on a local disk or in an object store, with atomic writes."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote

import pyarrow as pa
from pyarrow import fs

from msd_ray.errors import UserError
from msd_ray.storage.files import ArrowFiles, Files, LocalFiles, OpenFile
from msd_ray.storage.local_disk import TEMPORARY, Change
from msd_ray.storage.retry import patiently, why

GOOGLES_SECONDS = 10
_NEARLY_A_URI = re.compile(r"(s3|gs|gcs|abfs|abfss):(?!//)")
CHUNK = 1 << 24
"""Bytes that are read or written at a time where a file may be large."""
Chunks = Callable[[], Iterable[bytes | memoryview]]
"""Gives the content of a file from its beginning, each time it is called."""


class Store:
    """One directory, which need not exist yet. Pickles by uri (and by `filesystem` where one was given)."""

    def __init__(self, uri: str, filesystem: fs.FileSystem | None = None) -> None:
        """uri: a local path (relative ones and ~ are resolved now) or s3://, gs://, file:// and the like.

        With `filesystem`, uri is a path on it. Raises UserError for a uri of no known file system.
        """
        self._given = filesystem
        self._files, self._path = _resolve(uri) if filesystem is None else (_files_on(filesystem), uri)
        self.uri = uri if _is_uri(uri) else self._path

    def __reduce__(self) -> tuple[type["Store"], tuple[str, fs.FileSystem | None]]:
        return Store, (self.uri, self._given)

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def child(self, name: str) -> "Store":
        """The directory `name` in this one. Raises ValueError for a name that would lead elsewhere."""
        child = Store.__new__(Store)  # not Store(uri), which would connect once more
        child._given, child._files = self._given, self._files
        child._path = self._at(name)
        # the uri of an object store may end in ?region=...
        base, mark, query = self.uri.partition("?") if _is_uri(self.uri) else (self.uri, "", "")
        child.uri = _joined(base, quote(name)) + mark + query if _is_uri(self.uri) else child._path
        return child

    def read(self, name: str) -> bytes:
        """The content of a file; raises FileNotFoundError if there is none, UserError if it cannot be read."""
        path = self._at(name)
        content = patiently("read", path, lambda: self._files.read(path))
        if content is None:
            raise FileNotFoundError(f"no file {path}")
        return content

    def write(self, name: str, data: bytes) -> None:
        """Writes a file whole or not at all, over an old one if there is one; creates missing directories.

        Raises UserError if the directory cannot be written to (read-only, full, no permission, failing for long).
        """
        self.write_chunks(name, lambda: (data,))

    def write_chunks(self, name: str, chunks: Chunks) -> None:
        """As `write`, for a file that need not fit into memory; `chunks` is called again if a try fails.

        Errors of `chunks` are passed on, and no file is left then (an object store of pyarrow's may show the beginning
        of the file).
        """
        path = self._at(name)
        patiently("write", path, lambda: self._files.write(path, chunks()))

    def read_chunks(self, name: str) -> Iterator[bytes]:
        """The content of a file, at most CHUNK bytes at a time; raises as `read`. After a failure that may pass,
        reading goes on from where it was."""
        path, position = self._at(name), 0
        opened: OpenFile | None = None

        def next_chunk() -> bytes | None:
            nonlocal opened
            try:
                opened = opened or self._files.opened(path, position)
                return bytes(opened.read(CHUNK)) if opened else None
            except OSError:
                opened = None
                raise

        while chunk := patiently("read", path, next_chunk):
            position += len(chunk)
            yield chunk
        if chunk is None:
            raise FileNotFoundError(f"no file {path}")

    def read_range(self, name: str, begin: int, size: int) -> bytes:
        """`size` bytes of a file from byte `begin` on, fewer where it ends before; raises as `read`."""
        path = self._at(name)
        if not size:
            return b""
        content = patiently("read", path, lambda: self._files.read_range(path, begin, size))
        if content is None:
            raise FileNotFoundError(f"no file {path}")
        return content

    def append(self, name: str, lines: bytes) -> bool:
        """Appends whole lines to a text file, which need not exist yet, and returns whether it could: object stores
        cannot. A part of a line that a crash left stays on a line of its own. Raises UserError as `write`."""
        path = self._at(name)
        return patiently("write", path, lambda: self._files.append(path, lines))

    def update(self, name: str, change: Change) -> bool:
        """Replaces a small file by change(its content), None standing for no file; creates missing directories.

        Returns whether no other process can have updated the file between reading and writing. This is so on disks and
        network file systems with locks, and on S3 if the store honours conditions (If-Match). `change` may be called
        more than once; if it raises, the error is passed on and the file stays as it is. Raises UserError as `write`.
        """
        path = self._at(name)
        return patiently("write", path, lambda: self._files.update(path, change))

    def names(self) -> list[str]:
        """Sorted names of the files and directories in this one; none if it is missing."""
        return sorted(self.listed())

    def sizes(self) -> dict[str, int]:
        """Bytes of each file in this directory, by its name, from one listing."""
        return {name: size for name, size in self.listed().items() if size is not None}

    def exists(self, name: str) -> bool:
        """Whether there is a file or directory `name`."""
        path = self._at(name)
        return patiently("read", path, lambda: self._files.exists(path))

    def delete(self, name: str) -> None:
        """Removes a file, or a directory with all in it; one that is missing is fine. Raises UserError as `write`."""
        path = self._at(name)
        patiently("delete", path, lambda: self._files.remove(path))

    def delete_file(self, name: str) -> None:
        """As `delete`, for a file: this takes an object store one request."""
        path = self._at(name)
        patiently("delete", path, lambda: self._files.remove_file(path))

    def listed(self) -> dict[str, int | None]:
        """The names in this directory, of files with their bytes, of directories with None; none if it is missing."""
        found = patiently("list", self._path, lambda: self._files.listed(self._path))
        return {name: size for name, size in found.items() if not name.startswith(TEMPORARY)}

    def _at(self, name: str) -> str:
        if not name or name in {".", ".."} or "/" in name or "\0" in name or name.startswith(TEMPORARY):
            raise ValueError(f"not a name for a stored file: {name!r}")
        return _joined(self._path, name)


def _joined(directory: str, name: str) -> str:
    return directory + name if directory.endswith("/") or not directory else f"{directory}/{name}"


def _is_uri(uri: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", uri) is not None


def _resolve(uri: str) -> tuple[Files, str]:
    if not uri or "\0" in uri:
        raise UserError(f"not a path or URI: {uri!r}")
    if _NEARLY_A_URI.match(uri):
        raise UserError(f"cannot use {uri} as a place to store files: write {uri.partition(':')[0]}://BUCKET/PATH")
    if not _is_uri(uri):
        return LocalFiles(), os.path.abspath(os.path.expanduser(uri))
    if uri.lower().startswith("s3://"):
        return _on_s3(uri)
    try:
        filesystem, path = fs.FileSystem.from_uri(_bounded(uri))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"cannot use {uri} as a place to store files: {why(error)}") from error
    if not path:
        raise UserError(f"cannot use {uri} as a place to store files: it names no bucket or directory")
    return _files_on(filesystem), path


def _bounded(uri: str) -> str:
    """Google's client tries each request for 15 minutes unless it is told otherwise."""
    if not uri.startswith(("gs://", "gcs://")) or "retry_limit_seconds=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}retry_limit_seconds={GOOGLES_SECONDS}"


def _on_s3(uri: str) -> tuple[Files, str]:
    from msd_ray.storage.s3 import S3Files  # late: most runs need no S3, and its library takes time to load
    from msd_ray.storage.s3_client import parse_uri

    address, path = parse_uri(uri)
    return S3Files(address), path


def _files_on(filesystem: fs.FileSystem) -> Files:
    return LocalFiles() if isinstance(filesystem, fs.LocalFileSystem) else ArrowFiles(filesystem)
