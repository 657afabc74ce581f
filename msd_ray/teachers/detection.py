"""Which source reads a file or a directory: told by its first bytes, or by the names in it."""

import hashlib
import os
from functools import lru_cache
from glob import escape, glob

from msd_ray.errors import UserError, one_line
from msd_ray.storage import LFS_POINTER, MANIFEST

DIRECTORIES = {MANIFEST: "bundle", "model_index.json": "diffusers", "config.json": "diffusers"}
"""The name in SOURCES of what reads a directory, by a file that only such directories have."""
_OLD_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def format_of(path: str) -> str:
    """The name in SOURCES of what reads that file or directory. Raises UserError where nothing does."""
    if os.path.isdir(path):
        names = [name for file, name in DIRECTORIES.items() if os.path.isfile(os.path.join(path, file))]
        if not names:
            raise UserError(f"{path} has none of {', '.join(DIRECTORIES)}: it is no directory of a teacher")
        return names[0]
    head = _head(path)
    if head.startswith(LFS_POINTER):
        raise UserError(f"{path} is a pointer of git LFS, not the file itself; run `git lfs pull` where it came from")
    if head.lstrip()[:1] == b"<":
        raise UserError(f"{path} is a web page, not a teacher: the download failed; download it again")
    if head.startswith(_OLD_TORCH):
        raise UserError(f"{path} is in torch's format of before 2020; load it with torch, and save it once more")
    if head.startswith(b"PK\x03\x04"):
        return "adm"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "edm"
    raise UserError(f"{path} is no teacher: neither a pickle of EDM nor a file of torch.save")


def sha256_of(path: str) -> str:
    """Of a file's content; of a directory, that of the JSON files and safetensors in it and in the directories right
    below. Raises UserError where it cannot be read."""
    if os.path.isdir(path):
        inside = sorted(file for end in (".json", ".safetensors") for file in _below(path, end))
        listed = [f"{os.path.relpath(file, path)} {sha256_of(file)}" for file in inside]
        return hashlib.sha256("\n".join(listed).encode()).hexdigest()
    _head(path)
    found = os.stat(path)
    return _sha256(path, found.st_size, found.st_mtime_ns)


def _below(folder: str, end: str) -> list[str]:
    return [path for stars in ("*", "*/*") for path in glob(os.path.join(escape(folder), stars + end))]


@lru_cache(maxsize=64)
def _sha256(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _head(path: str) -> bytes:
    if not os.path.isfile(path):
        raise UserError(f"there is no file {path}")
    try:
        with open(path, "rb") as file:
            return file.read(256)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from None
