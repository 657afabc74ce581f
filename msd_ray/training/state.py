"""The state of a trainer as plain tensors and JSON, which is all that a checkpoint holds."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class State:
    """tensors: by the name of what they belong to, which has a file of its own in a checkpoint, and by their own. meta:
    JSON-able facts. copied: whether training does not change the tensors any more."""

    tensors: dict[str, Tensors]
    meta: dict[str, Any] = field(default_factory=dict)
    copied: bool = False

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(t.nbytes for of_one in self.tensors.values() for t in of_one.values())


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """The memory behind the tensors; what several share counts once."""
    memory = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(memory.values())


def laid_as(value: Tensor, like: Tensor) -> Tensor:
    """The value itself, or in memory as another tensor of its shape is."""
    return value if value.stride() == like.stride() else torch.empty_like(like, device=value.device).copy_(value)


def tensors_of(module: nn.Module) -> Tensors:
    return {name: value.detach() for name, value in module.state_dict().items()}
