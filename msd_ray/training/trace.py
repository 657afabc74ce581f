"""What a process computes, kernel by kernel, as a file for chrome://tracing or Perfetto."""

import gzip
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

NAME = "trace.json.gz"


def traced(act: Callable[[], Any]) -> bytes:
    """Does it, and returns the Chrome trace of what torch did meanwhile on CPU and GPU, compressed by gzip."""
    with torch.profiler.profile() as profile:
        act()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        return gzip.compress(path.read_bytes())
