"""The state of a trainer as plain tensors and JSON, which is all that a checkpoint holds."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class State:
    """parts: named groups of tensors (one file each in a checkpoint). meta: JSON-able facts."""

    parts: dict[str, Tensors]
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(t.nbytes for tensors in self.parts.values() for t in tensors.values())


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """The memory behind the tensors; what several share counts once."""
    memory = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(memory.values())


def tensors_of(module: nn.Module) -> Tensors:
    return {name: value.detach() for name, value in module.state_dict().items()}
