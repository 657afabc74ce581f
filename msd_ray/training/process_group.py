"""The processes that train one student together."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class ProcessGroup:
    """What one of `world` processes knows of the others; rank: its number, from 0.

    Where there are several, each has joined torch.distributed's default process group with this rank (gloo for tensors
    on a CPU, nccl on GPUs). All do the same in the same order, so one that stops keeps the others waiting.
    """

    rank: int
    world: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank ({self.rank}) must be at least 0 and below world ({self.world})")

    def mine(self, shards: int) -> range:
        """The numbers of the shards that this process computes: rank, rank + world, ..."""
        return range(self.rank, shards, self.world)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Adds up each tensor over the processes, in place and in one message; afterwards all have the same bits."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        totals = flat.split_with_sizes([tensor.numel() for tensor in tensors])
        for tensor, total in zip(tensors, totals, strict=True):
            tensor.copy_(total.view_as(tensor))

    def total(self, value: float, device: torch.device) -> float:
        """The sum of a number over the processes; device: one that their process group can send from."""
        if self.world == 1:
            return value
        numbers = torch.tensor([value], dtype=torch.float64, device=device)
        self.sum([numbers])
        return float(numbers)


ALONE = ProcessGroup(rank=0, world=1)
"""A process that trains by itself, without torch.distributed."""
