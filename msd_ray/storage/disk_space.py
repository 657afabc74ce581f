"""Checks before work begins that a directory can be written to and has room."""

import os
import shutil
from contextlib import suppress

from msd_ray.errors import UserError
from msd_ray.storage.store import Store

PROBE = "write-test"


def refuse_unwritable(store: Store, advice: str) -> None:
    """Writes a small file and removes it, with the directories that it needed. Raises UserError, which ends with
    `advice`, if that fails."""
    missing = [place for place in _upwards(store) if not os.path.exists(place)]
    try:
        store.write(PROBE, b"")
        store.delete(PROBE)
    except UserError as error:
        raise UserError(f"{error}: {advice}") from None
    finally:
        for place in missing:
            with suppress(OSError):
                os.rmdir(place)


def free_bytes(store: Store) -> int | None:
    """Free bytes of the disk that the directory is or will be on; None if that is not a local disk."""
    there = next((place for place in _upwards(store) if os.path.exists(place)), None)
    return shutil.disk_usage(there).free if there else None


def used_bytes(store: Store) -> int:
    """Bytes of all files below a directory on a local disk; 0 elsewhere."""
    root = next(iter(_upwards(store)), "")
    files = (os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names)
    return sum(os.path.getsize(file) for file in files if os.path.exists(file)) if root else 0


def _upwards(store: Store) -> list[str]:
    """The directory on a local disk, then its parents; empty elsewhere."""
    path = store.uri.removeprefix("file://")
    if not path.startswith("/"):
        return []
    found = [path.rstrip("/") or "/"]
    while (parent := os.path.dirname(found[-1])) != found[-1]:
        found.append(parent)
    return found
