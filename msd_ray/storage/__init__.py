"""Where run directories, checkpoints and ensembles live: a local disk or an object store."""

from msd_ray.storage.bundle import MANIFEST, FileEntry, Manifest, copy_bundle, read_file, read_manifest, write_bundle
from msd_ray.storage.local import Change
from msd_ray.storage.store import Store

__all__ = [
    "MANIFEST",
    "Change",
    "FileEntry",
    "Manifest",
    "Store",
    "copy_bundle",
    "read_file",
    "read_manifest",
    "write_bundle",
]
