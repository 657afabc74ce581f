"""The device of a process that trains or answers."""

import torch


def prepare_device(gpus: float, threads: int) -> torch.device:
    """The device a process computes on; makes torch deterministic, and single-minded about its share of the CPU."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling fresh memory with NaN is a check for programmers, at 6 % of a training step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if gpus:
        return torch.device("cuda")
    torch.set_num_threads(threads)
    return torch.device("cpu")
