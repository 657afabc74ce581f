"""A bundle: files in one directory and a manifest, written last, that has the size and the hash of each."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

from msd_ray.errors import CorruptError, UserError
from msd_ray.storage.store import Chunks, Store

MANIFEST = "manifest.json"
RESTORE = "restore this directory from a copy, or delete it and create it again"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_POINTER = "it is a pointer of git LFS, not the file itself", "run `git lfs pull` where it came from"
_Chunk = TypeVar("_Chunk", bound=bytes | memoryview)


@dataclass(frozen=True)
class FileEntry:
    """bytes: size of the file. sha256: of its content, in hexadecimal."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """body: the writer's own facts, as JSON. files: the files of the bundle, by name."""

    body: dict[str, Any]
    files: dict[str, FileEntry]


def write_bundle(store: Store, body: dict[str, Any], files: Iterable[tuple[str, bytes | Chunks]]) -> None:
    """Writes the (name, content) pairs, then the manifest. `files` is consumed lazily: one content at a time in memory,
    or one chunk of it, hashed on its way to the file.

    If the directory has a bundle already, its manifest is removed first, so that no manifest ever stands beside files
    that it does not describe; old files that the new bundle does not have are removed last. Raises UserError if the
    store cannot be written to (the directory is then emptied), ValueError or TypeError for a body that is not JSON,
    ValueError for a name given twice.
    """
    body = json.loads(_canonical(body))  # as it will be read: string keys, lists for tuples
    before = store.names()
    if MANIFEST in before:
        store.delete_file(MANIFEST)
    try:
        entries = _write_files(store, files)
        store.write(MANIFEST, _serialised(Manifest(body, entries)))
    except UserError:
        _make_room(store)
        raise
    for name in set(before) - {*entries, MANIFEST}:
        store.delete(name)


def read_manifest(store: Store) -> Manifest:
    """The manifest of the bundle in `store`.

    Raises FileNotFoundError if there is none (no bundle, or one whose writing was cut short) and CorruptError if any
    byte of it changed since it was written.
    """
    data = store.read(MANIFEST)
    if data.startswith(LFS_POINTER):
        raise _damaged(store, MANIFEST, *_POINTER)
    try:
        manifest = _parsed(data)
        intact = _serialised(manifest) == data
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(store, MANIFEST, "it cannot be read") from error
    if not intact:
        raise _damaged(store, MANIFEST, "its content is not what was written")
    return manifest


def read_file(store: Store, manifest: Manifest, name: str) -> bytes:
    """A file of the bundle, its size and sha256 verified. Raises CorruptError if it is missing or changed."""
    return b"".join(read_chunks(store, manifest, name))


def read_chunks(store: Store, manifest: Manifest, name: str) -> Iterator[bytes]:
    """A file of the bundle, piece by piece. Raises CorruptError as `read_file`. A changed byte is noticed only at the
    end, so use no piece before that."""
    entry = manifest.files.get(name)
    if entry is None:
        raise _damaged(store, name, "the manifest does not list it")
    tally = _Counter()
    try:
        yield from tally.of(partial(store.read_chunks, name))
    except FileNotFoundError as error:
        raise _damaged(store, name, "it is missing") from error
    if tally.entry.bytes != entry.bytes:
        raise _damaged(store, name, *_cut_short(store, name, tally.entry.bytes, entry))
    if tally.entry != entry:
        raise _damaged(store, name, "its sha256 is not the one in the manifest")


def verify(store: Store) -> None:
    """Reads the whole bundle and keeps nothing of it. Raises what `read_manifest` and `read_file` raise."""
    manifest = read_manifest(store)
    for name in manifest.files:
        for _ in read_chunks(store, manifest, name):
            pass


def check_sizes(store: Store, manifest: Manifest, advice: str = RESTORE) -> None:
    """Checks that each file exists and has the right size, without reading any. Raises CorruptError, which ends with
    `advice`, for the first that does not."""
    sizes = store.sizes()
    for name, entry in manifest.files.items():
        if name not in sizes:
            raise _damaged(store, name, "it is missing", advice)
        if sizes[name] != entry.bytes:
            raise _damaged(store, name, *_cut_short(store, name, sizes[name], entry, advice))


def _cut_short(store: Store, name: str, size: int, entry: FileEntry, advice: str = RESTORE) -> tuple[str, str]:
    """Says what is wrong with a file of another size, and what to do."""
    if size < 1024 and store.read(name).startswith(LFS_POINTER):
        return _POINTER
    return f"it has {size} bytes instead of {entry.bytes}", advice


def copy_bundle(source: Store, target: Store) -> None:
    """Raises what `read_manifest`, `read_file` and `write_bundle` raise."""
    manifest = read_manifest(source)
    files = ((name, partial(read_chunks, source, manifest, name)) for name in manifest.files)
    write_bundle(target, manifest.body, files)


def _write_files(store: Store, files: Iterable[tuple[str, bytes | Chunks]]) -> dict[str, FileEntry]:
    entries: dict[str, FileEntry] = {}
    for name, content in files:
        if name in entries or name == MANIFEST:
            raise ValueError(f"a bundle has one file of each name: {name}")
        tally = _Counter()
        chunks = partial(iter, (content,)) if isinstance(content, bytes) else content
        store.write_chunks(name, partial(tally.of, chunks))
        entries[name] = tally.entry
    return entries


class _Counter:
    """Counts and hashes the chunks that pass through it."""

    entry = FileEntry(0, hashlib.sha256().hexdigest())

    def of(self, chunks: Callable[[], Iterable[_Chunk]]) -> Iterator[_Chunk]:
        """Yields the chunks of `chunks`. Afterwards `entry` has their size and hash."""
        size, sha256 = 0, hashlib.sha256()
        for chunk in chunks():
            sha256.update(chunk)
            size += len(chunk)
            yield chunk
        self.entry = FileEntry(size, sha256.hexdigest())


def _make_room(store: Store) -> None:
    """Removes files that will have no manifest: on a full disk they only take room."""
    with suppress(UserError):
        for name in store.names():
            store.delete(name)


def _canonical(value: Any) -> bytes:
    """The only valid spelling of a manifest, so that a reader notices every damaged byte."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False).encode()


def _serialised(manifest: Manifest) -> bytes:
    content = {"body": manifest.body, "files": {name: asdict(entry) for name, entry in manifest.files.items()}}
    return _canonical({**content, "sha256": _sha256(_canonical(content))}) + b"\n"


def _parsed(data: bytes) -> Manifest:
    raw = json.loads(data.decode())
    if not isinstance(raw["body"], dict):
        raise TypeError("the body of a manifest is an object")
    return Manifest(raw["body"], {name: FileEntry(**entry) for name, entry in raw["files"].items()})


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _damaged(store: Store, name: str, why: str, advice: str = RESTORE) -> CorruptError:
    return CorruptError(f"{store.uri}/{name} is damaged: {why}; {advice}")
