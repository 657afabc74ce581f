"""Copies of data on this machine's disk, for formats that cannot be read from the middle."""

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile

from msd_ray.errors import UserError, one_line


def local_copy(name: str, write: Callable[[str], None]) -> str:
    """The path of the copy `name` in the user's cache (MSD_RAY_CACHE where that is a folder here), which `write` makes
    at the path that it is given, if there is none yet. Raises UserError where there is no room for it."""
    folder = _folder()
    copy = folder / name
    if copy.exists():
        return str(copy)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=folder, prefix=".", delete=False) as file:
            temporary = file.name
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {one_line(error)}; set MSD_RAY_CACHE to another folder") from None
    try:
        write(temporary)
        os.replace(temporary, copy)
    except OSError as error:
        raise UserError(
            f"cannot make a copy in {folder}: {one_line(error)}; free some space, or set MSD_RAY_CACHE"
        ) from None
    finally:
        Path(temporary).unlink(missing_ok=True)
    return str(copy)


def _folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    named = os.environ.get("MSD_RAY_CACHE", "")
    return Path(named if named and "://" not in named else f"{home}/msd_ray").expanduser() / "data"
