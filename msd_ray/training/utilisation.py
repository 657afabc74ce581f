"""How much of its device training uses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

PEAKS = {
    "B200": 2250e12, "H200": 989e12, "H100": 989e12, "H800": 989e12, "A100": 312e12, "A800": 312e12, "L40S": 362e12,
    "L40": 181e12, "L4": 121e12, "A10": 125e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
}  # fmt: skip
"""Dense bf16 FLOP/s by what a card's name holds, of its data sheet; longer names before those that they hold."""


@dataclass(frozen=True)
class Utilisation:
    """Of one process. flops: floating-point operations per second that its updates reached. mfu: their share of what
    the card can do in bf16, None where that is not known. memory: the most bytes that it held on its GPU, 0 on a
    CPU."""

    flops: float
    mfu: float | None
    memory: int


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts while operations run: those of matrix products, convolutions and attention, two for each product that is
    added."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        out = func(*args, **given)
        self.flops += flops_of(func, args, given, out) or 0.0
        return out


def flops_of(func: Any, args: tuple[Any, ...], given: Mapping[str, Any], out: Any) -> float | None:
    """The floating-point operations of one operation of torch that gave `out`; None of one that has no formula."""
    formula = flop_registry.get(func._overloadpacket)
    return float(formula(*args, **given, out_val=out)) if formula else None


def utilisation(flops: float, device: torch.device) -> Utilisation:
    """flops: per second. Forgets the most memory that was held."""
    if device.type != "cuda":
        return Utilisation(flops, None, 0)
    memory = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    peak = peak_of(torch.cuda.get_device_name(device))
    return Utilisation(flops, flops / peak if peak else None, memory)


def peak_of(card: str) -> float | None:
    """FLOP/s in bf16 of a card of this name, None if it is not known."""
    return next((peak for name, peak in PEAKS.items() if name in card), None)
