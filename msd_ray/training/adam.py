"""Adam, AdamW and RAdam, to the last bit as torch's classes of these names.

The mathematics are torch's functions. Its classes are not used, since they import torch's compiler, which takes 0.9 s
of every process that trains.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.radam import radam

from msd_ray.training.optimizer_state import AVERAGES, StateKind, average_store
from msd_ray.training.state import Tensors

EPSILON = 1e-8
PORTION = 1 << 25
"""Numbers of the weights that are moved together where their averages must be fetched first."""


class Adam:
    """Moves `parameters` along their gradients. lr: may be set anew before each step. before_step: called with each
    optimizer of the process before each of its steps, for measurements. Raises UserError where the averages cannot be
    kept as `state` says."""

    before_step: ClassVar[list[Callable[["Adam"], None]]] = []

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        kind: Literal["adam", "adamw", "radam"] = "adam",
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        state: StateKind = "fp32",
    ) -> None:
        self.parameters, self.lr, self.kind = list(parameters), lr, kind
        self.betas, self.weight_decay = betas, weight_decay
        self._fetches, self._store = state != "fp32", average_store(state)
        self._steps: dict[int, Tensor] = {}
        self._averages: dict[int, Tensors] = {}

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
        for numbers in self._portions([i for i, p in enumerate(self.parameters) if p.grad is not None]):
            self._move(numbers, finite)

    def _move(self, numbers: list[int], finite: Tensor | None) -> None:
        parameters = [self.parameters[i] for i in numbers]
        kept, steps = [self._averages_of(i) for i in numbers], [self._steps[i] for i in numbers]
        taken = [self._store.take(k, p) for k, p in zip(kept, parameters, strict=True)]
        averages = [[of_one[name] for of_one in taken] for name in AVERAGES]
        lists: Any = parameters, [p.grad for p in parameters], *averages
        how: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay, "eps": EPSILON}
        how |= {"beta1": self.betas[0], "beta2": self.betas[1], "decoupled_weight_decay": self.kind == "adamw"}
        act: Any = radam
        if self.kind != "radam":
            act, lists = adam, (*lists, [])
            how |= {"fused": True, "amsgrad": False, "maximize": False}
            how |= {} if finite is None else {"found_inf": (~finite).float()}
        act(*lists, steps, **how)
        for k, moved in zip(kept, taken, strict=True):
            self._store.put(k, moved)

    def tensors(self) -> Tensors:
        """Its state as {"<parameter>.<name>": tensor}. Learning rate and the like are the recipe's and not in it."""
        named = ((i, {"step": self._steps[i], **averages}) for i, averages in self._averages.items())
        return {f"{i}.{name}": value for i, state in named for name, value in state.items()}

    def on_device(self) -> list[Tensor]:
        """Those of its state that lie where the weights do."""
        averages = (t for kept in self._averages.values() for t in self._store.on_device(kept).values())
        return [*self._steps.values(), *averages]

    def load(self, tensors: Tensors) -> None:
        """The inverse of `tensors`, whichever way the averages were kept."""
        known: dict[int, Tensors] = {}
        for key, value in tensors.items():
            weight, name = key.split(".", 1)
            known.setdefault(int(weight), {})[name] = value
        self._steps, self._averages = {}, {}
        for number, state in known.items():
            like = self._no_steps(number)
            self._steps[number] = state.pop("step").to(like.device, like.dtype)
            self._averages[number] = self._store.load(state, self.parameters[number].detach())

    def _averages_of(self, number: int) -> Tensors:
        if number not in self._averages:
            self._averages[number] = self._store.begin(self.parameters[number].detach())
            self._steps[number] = self._no_steps(number)
        return self._averages[number]

    def _portions(self, numbers: list[int]) -> Iterator[list[int]]:
        """The numbers of weights that one call moves: all, or so many that their averages fit beside them."""
        portion, size = list[int](), 0
        for i in numbers:
            if portion and self._fetches and size + self.parameters[i].numel() > PORTION:
                yield portion
                portion, size = [], 0
            portion.append(i)
            size += self.parameters[i].numel()
        if portion:
            yield portion

    def _no_steps(self, number: int) -> Tensor:
        """A count of zero, where and as torch's function wants it."""
        if self.kind == "radam":
            return torch.zeros((), dtype=torch.get_default_dtype())
        return torch.zeros((), dtype=torch.float32, device=self.parameters[number].device)
