"""Where run directories, checkpoints and ensembles live: a local disk or an object store."""

from msd_ray.storage.bundle import (
    LFS_POINTER,
    MANIFEST,
    RESTORE,
    FileEntry,
    Manifest,
    check_sizes,
    copy_bundle,
    read_chunks,
    read_file,
    read_manifest,
    verify,
    write_bundle,
)
from msd_ray.storage.cache import default_cache, digest
from msd_ray.storage.disk_space import free_bytes, refuse_unwritable, used_bytes
from msd_ray.storage.local_disk import Change
from msd_ray.storage.store import CHUNK, Chunks, Store

__all__ = [
    "CHUNK",
    "LFS_POINTER",
    "MANIFEST",
    "RESTORE",
    "Change",
    "Chunks",
    "FileEntry",
    "Manifest",
    "Store",
    "check_sizes",
    "copy_bundle",
    "default_cache",
    "digest",
    "free_bytes",
    "read_chunks",
    "read_file",
    "read_manifest",
    "refuse_unwritable",
    "used_bytes",
    "verify",
    "write_bundle",
]
