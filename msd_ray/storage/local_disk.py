"""Changes to a local disk that a crash or a power cut cannot leave half done."""

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".tmp-"
Change = Callable[[bytes | None], bytes | None]
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


def write_atomically(target: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Writes a file whole or not at all, and makes its directory. Raises OSError if it cannot; errors of `chunks` are
    passed on."""
    _make_directory(target.parent)
    temporary = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        with open(temporary, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(target.parent)


def append_lines(target: Path, lines: bytes) -> None:
    """Appends whole lines to a file, and makes it and its directory; raises OSError if it cannot. After a crash the
    file may end in a part of them, on a line of its own."""
    _make_directory(target.parent)
    with open(target, "ab+") as file:
        new = file.tell() == 0
        if not new:
            file.seek(-1, os.SEEK_END)
            lines = lines if file.read(1) == b"\n" else b"\n" + lines
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())
    if new:
        _sync(target.parent)


def delete_durably(target: Path) -> None:
    """Removes a file, or a directory with all in it; one that is missing is fine. Raises OSError if it cannot."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    if target.parent.is_dir():
        _sync(target.parent)


def update_locked(target: Path, change: Change) -> bool:
    """Replaces a small file by change(its content), None standing for no file; other processes that do so wait.

    Written in place, since a lock belongs to the file and not to its name; so a crash may leave it half written.
    Returns whether the file system has locks; without them, another process may write in between. Raises OSError if it
    cannot write; errors of `change` are passed on.
    """
    _make_directory(target.parent)
    while True:
        with os.fdopen(os.open(target, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
            locked = _locked(file)
            if _is_at(target, file):
                _change_in_place(target, file, change)
                return locked


def _locked(file: BinaryIO) -> bool:
    """Waits for the file's lock. Closing the file releases it, and so does the process's death."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno in _NO_LOCKS_HERE:
            return False
        raise
    return True


def _is_at(target: Path, file: BinaryIO) -> bool:
    """False if the previous holder of the lock removed the file."""
    try:
        return os.path.samestat(os.stat(target), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _change_in_place(target: Path, file: BinaryIO, change: Change) -> None:
    """An empty file counts as none: opening it has just made it."""
    try:
        new = change(file.read() or None) or b""
        file.seek(0)
        file.write(new)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
    finally:
        if os.fstat(file.fileno()).st_size == 0:
            target.unlink()


def _make_directory(directory: Path) -> None:
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync(path.parent)


def _sync(directory: Path) -> None:
    """Makes renames and removals in the directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
