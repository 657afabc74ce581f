"""Low-rank adapters (LoRA, arXiv 2106.09685): small trained changes to the frozen weights of a network.

Each linear and convolution layer computes with W + (alpha / rank) B A, for matrices A [rank, in] and B [out, rank]; in
a convolution `in` counts the pixels of the window. This is torch's parametrization of the layer's weight, so whatever
reads that weight, kernels of our own too, gets the sum. Files name A and B as peft does.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from msd_ray.ranges import Rate, Width

Tensors = dict[str, Tensor]
_Module = TypeVar("_Module", bound=nn.Module)
_A, _B = ".lora_A.weight", ".lora_B.weight"
_INSIDE = ".parametrizations.weight.0"
_ORIGINAL = ".parametrizations.weight.original"
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Adapter:
    """rank: of each layer's change, or less where the layer has fewer inputs or outputs. alpha: the change is
    multiplied by alpha / rank; null: by 1."""

    kind: Literal["lora"] = "lora"
    rank: Width = 4
    alpha: Rate | None = None

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank


class _LowRank(nn.Module):
    """W -> W + scale B A, of a layer's weight W [out, in, ...]; A and B have the shapes of peft's layers."""

    def __init__(self, weight: Tensor, adapter: Adapter) -> None:
        super().__init__()
        out, inputs = weight.shape[0], weight.shape[1:]
        rank = min(adapter.rank, out, inputs.numel())
        self.a = nn.Parameter(weight.new_zeros(rank, *inputs))
        self.b = nn.Parameter(weight.new_zeros(out, rank, *(1 for _ in inputs[1:])))
        self.scale = adapter.scale

    def forward(self, weight: Tensor) -> Tensor:
        return _sum(weight, self.a, self.b, self.scale)


def _sum(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    return weight + (scale * (b.flatten(1) @ a.flatten(1))).view(weight.shape)


def attach(module: _Module, adapter: Adapter) -> _Module:
    """The module itself, frozen, with adapters that do not change it yet and require a gradient."""
    module.requires_grad_(False)
    for layer in [part for part in module.modules() if isinstance(part, _LAYERS)]:
        parametrize.register_parametrization(layer, "weight", _LowRank(layer.weight, adapter), unsafe=True)
    return module


def draw(module: nn.Module) -> None:
    """Draws every A from torch's global random state, as layers draw their first weights, on the CPU. B stays zero."""
    for _, adapter in _adapters(module):
        adapter.a.data.copy_(nn.init.kaiming_uniform_(torch.empty(adapter.a.shape), a=math.sqrt(5)))


def copied(module: _Module) -> _Module:
    """A copy with weights of its own; of a network with adapters, with adapters of its own on the same base."""
    own = {id(p) for _, p in own_parameters(module)}
    shared = [] if not any(_adapters(module)) else [t for t in _tensors(module) if id(t) not in own]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in shared})


def beside(module: _Module) -> _Module:
    """A copy that computes with the same tensors, for adapters of its own on them."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in _tensors(module)})


def own_parameters(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """What may train: adapters where there are any, each by the name of the weight that it changes, or all weights."""
    adapters = [(f"{layer}.weight", p) for layer, part in _adapters(module) for p in (part.a, part.b)]
    return adapters or list(module.named_parameters())


def own_tensors(module: nn.Module) -> Tensors:
    """What is the module's own, to be kept: its adapters where there are any, or its state dict. Shares memory."""
    adapters = dict[str, Tensor]()
    for layer, part in _adapters(module):
        adapters |= {layer + _A: part.a, layer + _B: part.b}
    return {name: value.detach() for name, value in (adapters or module.state_dict()).items()}


def load_own(module: nn.Module, tensors: Tensors, assign: bool = False) -> None:
    """The inverse of `own_tensors`. assign: takes the tensors themselves, where there are no adapters. Raises
    RuntimeError where they do not fit."""
    if not any(_adapters(module)):
        module.load_state_dict(tensors, assign=assign)
        return
    own = own_tensors(module)
    if {n: t.shape for n, t in own.items()} != {n: t.shape for n, t in tensors.items()}:
        raise RuntimeError("the adapters have other names or ranks than the network's")
    for name, value in own.items():
        value.copy_(tensors[name])


def begin_as(module: nn.Module, other: nn.Module) -> None:
    """Lets the module compute as the other one, from its adapters into whole weights too. Raises RuntimeError where the
    module has adapters, and the other none or those of another rank."""
    own = own_tensors(other) if any(_adapters(module)) else _whole(other)
    load_own(module, own)


def _whole(module: nn.Module) -> Tensors:
    """The state dict of a plain network that computes as the module."""
    with torch.no_grad():
        changed = {f"{layer}.weight": module.get_submodule(layer).weight for layer, _ in _adapters(module)}
    kept = {name.replace(_ORIGINAL, ".weight"): v for name, v in module.state_dict().items() if _INSIDE not in name}
    return kept | changed


def merged(base: Tensors, adapters: Tensors, adapter: Adapter) -> Tensors:
    """The state dict of a plain network that computes as the base with these adapters. Raises KeyError where they do
    not fit."""
    changed = dict(base)
    for layer in [name.removesuffix(_A) for name in adapters if name.endswith(_A)]:
        weight = base[f"{layer}.weight"].float()
        changed[f"{layer}.weight"] = _sum(weight, adapters[layer + _A], adapters[layer + _B], adapter.scale)
    return changed


def count_own(module: nn.Module) -> int:
    """Parameters that may train."""
    return sum(p.numel() for _, p in own_parameters(module))


def _adapters(module: nn.Module) -> Iterator[tuple[str, _LowRank]]:
    for name, part in module.named_modules():
        if isinstance(part, _LowRank):
            yield name.removesuffix(_INSIDE), part


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()
