"""The cache of a user or a cluster: what can be made again, by names that follow from what it depends on."""

import hashlib
import json
import os
from typing import Any

from msd_ray.storage.store import Store


def default_cache() -> Store:
    """MSD_RAY_CACHE (any URI), else the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"  # empty means unset, as its specification has it
    return Store(os.environ.get("MSD_RAY_CACHE") or f"{home}/msd_ray")


def digest(determinants: list[Any]) -> str:
    """A short name for whatever follows from these plain values."""
    return hashlib.sha256(json.dumps(determinants, sort_keys=True).encode()).hexdigest()[:16]
