"""The state of a trainer as plain tensors and JSON, which is all that a checkpoint holds."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn, optim

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


def tensors_of_optimizer(optimizer: optim.Optimizer) -> Tensors:
    """Per-parameter state as {"<parameter>.<name>": tensor}; hyperparameters are the recipe's and are not kept."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, values in state.items() for name, value in values.items()}


def load_optimizer(optimizer: optim.Optimizer, tensors: Tensors) -> None:
    """The inverse of `tensors_of_optimizer`, into an optimizer over the same parameters."""
    state: dict[int, Tensors] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
