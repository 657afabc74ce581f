"""Changes to a local disk that a crash or a power cut cannot leave half done."""

import os
import shutil
import uuid
from pathlib import Path

TEMPORARY = ".tmp-"


def write_atomically(target: Path, data: bytes) -> None:
    """Puts a file in place whole or not at all, and makes its directory; raises OSError where it cannot."""
    _make_directory(target.parent)
    temporary = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(target.parent)


def delete_durably(target: Path) -> None:
    """Removes a file, or a directory with all in it; one that is missing is fine. Raises OSError where it cannot."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    if target.parent.is_dir():
        _sync(target.parent)


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
