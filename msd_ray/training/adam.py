"""Adam, AdamW and RAdam, to the last bit as torch's classes of these names.

The mathematics are torch's functions. Its classes are not used, since they import torch's compiler, which takes 0.9 s
of every process that trains.
"""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.radam import radam

from msd_ray.training.state import Tensors, laid_as

EPSILON = 1e-8


class Adam:
    """Moves `parameters` along their gradients. lr: may be set anew before each step. before_step: called with each
    optimizer of the process before each of its steps, for measurements."""

    before_step: ClassVar[list[Callable[["Adam"], None]]] = []

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        kind: Literal["adam", "adamw", "radam"] = "adam",
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        self.parameters, self.lr, self.kind = list(parameters), lr, kind
        self.betas, self.weight_decay = betas, weight_decay
        self._state: dict[int, Tensors] = {}

    def zero_grad(self) -> None:
        """Frees the gradients."""
        for p in self.parameters:
            p.grad = None

    @property
    def can_stay(self) -> bool:
        """Whether `step` takes a tensor that says whether to move at all."""
        return self.kind != "radam"

    @torch.no_grad()
    def step(self, finite: Tensor | None = None) -> None:
        """Moves the parameters that have a gradient. finite: where this bool [] is false, nothing changes."""
        for watch in self.before_step:
            watch(self)
        moved = [i for i, p in enumerate(self.parameters) if p.grad is not None]
        parameters, states = [self.parameters[i] for i in moved], [self._state_of(i) for i in moved]
        means, squares, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        lists: Any = parameters, [p.grad for p in parameters], means, squares
        how: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay, "eps": EPSILON}
        how |= {"beta1": self.betas[0], "beta2": self.betas[1], "decoupled_weight_decay": self.kind == "adamw"}
        act: Any = radam
        if self.kind != "radam":
            act, lists = adam, (*lists, [])
            how |= {"fused": True, "amsgrad": False, "maximize": False}
            how |= {} if finite is None else {"found_inf": (~finite).float()}
        act(*lists, steps, **how)

    def tensors(self) -> Tensors:
        """Its state as {"<parameter>.<name>": tensor}. Learning rate and the like are the recipe's and not in it."""
        return {f"{i}.{name}": value for i, state in self._state.items() for name, value in state.items()}

    def load(self, tensors: Tensors) -> None:
        """The inverse of `tensors`."""
        self._state = {}
        for key, value in tensors.items():
            number, name = int(key.split(".")[0]), key.split(".")[1]
            like = self._no_steps(number) if name == "step" else self.parameters[number]
            self._state.setdefault(number, {})[name] = laid_as(value.to(like.device, like.dtype), like)

    def _state_of(self, number: int) -> Tensors:
        if number not in self._state:
            means = {name: torch.zeros_like(self.parameters[number]) for name in ("exp_avg", "exp_avg_sq")}
            self._state[number] = {"step": self._no_steps(number), **means}
        return self._state[number]

    def _no_steps(self, number: int) -> Tensor:
        """A count of zero, where and as torch's function wants it."""
        if self.kind == "radam":
            return torch.zeros((), dtype=torch.get_default_dtype())
        return torch.zeros((), dtype=torch.float32, device=self.parameters[number].device)
