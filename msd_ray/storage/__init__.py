"""Where run directories, checkpoints and ensembles live: a local disk or an object store."""

from msd_ray.storage.bundle import MANIFEST, FileEntry, Manifest, read_file, read_manifest, write_bundle
from msd_ray.storage.local import Change
from msd_ray.storage.store import Store

__all__ = ["MANIFEST", "Change", "FileEntry", "Manifest", "Store", "read_file", "read_manifest", "write_bundle"]
