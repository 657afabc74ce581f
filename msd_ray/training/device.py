"""The device of a process that trains or answers."""

import ctypes
from pathlib import Path

import psutil
import torch

CGROUPS = Path("/sys/fs/cgroup")
KEEPS = {-3: 32 << 20, -1: 256 << 20, -2: 16 << 20}
"""Of glibc's mallopt: from how many bytes on memory is the system's own (M_MMAP_THRESHOLD, its highest value), how many
free ones a process keeps (M_TRIM_THRESHOLD), and how many more than it needs it takes (M_TOP_PAD)."""


def prepare_device(gpus: float, threads: int) -> torch.device:
    """The device that a process computes on. Makes torch deterministic, and sets its number of threads and how much
    free memory it keeps."""
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms would import the compiler: 0.9 s
    # Filling fresh memory with NaN is a check for programmers, at 6 % of a training step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if gpus:
        return torch.device("cuda")
    torch.set_num_threads(threads)
    _keep_freed_memory()
    return torch.device("cpu")


def _keep_freed_memory() -> None:
    """Keeps the memory of one update for the next. The system would give it back filled with zeros, page by page: some
    1,500 faults per update of the digits' students, up to 4 % of its time."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # glibc has it, other systems may not
        for parameter, value in KEEPS.items():
            mallopt(parameter, value)


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still have there. Of a GPU, what torch keeps for itself counts as free."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    return min([int(psutil.virtual_memory().available), *_left_to_the_container()])


def _left_to_the_container() -> list[int]:
    """Free bytes under a container's memory limit, if there is one; the kernel's file cache counts as free."""
    try:
        limit = int((CGROUPS / "memory.max").read_text())
        used = int((CGROUPS / "memory.current").read_text())
        facts = dict(line.split() for line in (CGROUPS / "memory.stat").read_text().splitlines())
        return [limit - used + int(facts["inactive_file"])]
    except (OSError, ValueError, KeyError):  # no limit, or another kind of system
        return []
