"""Tensors of which a process may keep a piece alone (torch's DTensor), and what is computed with the pieces."""

from collections.abc import Sequence

import torch
from torch import Tensor

from msd_ray.training.process_group import ProcessGroup


def is_divided(tensor: Tensor) -> bool:
    return hasattr(tensor, "placements")


def here(tensor: Tensor) -> Tensor:
    """The tensor, or this process's piece of it; without its history."""
    tensor = tensor.detach()
    return tensor.to_local() if is_divided(tensor) else tensor  # type: ignore[attr-defined]


def clip_pieces(gradients: Sequence[Tensor], most: float, group: ProcessGroup) -> Tensor:
    """As torch's `clip_grad_norm_`, of gradients of which each process of the group keeps pieces; the others are the
    same in all of them. Returns their norm [] before."""
    divided = [is_divided(g) for g in gradients]
    parts = [here(g) for g in gradients]
    squares = torch.stack(torch._foreach_norm(parts)).square()
    theirs = torch.tensor(divided, device=squares.device)
    of_pieces = [(squares * theirs).sum()]
    group.sum(of_pieces)
    norm = (of_pieces[0] + (squares * ~theirs).sum()).sqrt()
    torch._foreach_mul_(parts, torch.clamp(most / (norm + 1e-6), max=1.0))
    return norm
