"""The device of a process that trains or answers."""

from pathlib import Path

import psutil
import torch

CGROUPS = Path("/sys/fs/cgroup")


def prepare_device(gpus: float, threads: int) -> torch.device:
    """The device that a process computes on. Makes torch deterministic, and sets its number of threads."""
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms would import the compiler: 0.9 s
    # Filling fresh memory with NaN is a check for programmers, at 6 % of a training step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if gpus:
        return torch.device("cuda")
    torch.set_num_threads(threads)
    return torch.device("cpu")


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
