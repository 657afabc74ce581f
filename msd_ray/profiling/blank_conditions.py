"""Prompts without texts, for counting: what a text encoder makes of them takes data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:  # a GPU's benchmark needs blank prompts, and no plan
    from msd_ray.runs.plan import Plan


@dataclass(frozen=True)
class Blank:
    """In place of a plan's conditions. encoded, embedded: the shapes of one. dtype: of what is encoded."""

    encoded: tuple[int, ...]
    embedded: tuple[int, ...]
    dtype: torch.dtype

    def draw(self, among: Tensor, n: int, rng: torch.Generator) -> Tensor:
        return among[:1].expand(n)

    def encode(self, wanted: Tensor | Sequence[Any]) -> Tensor:
        return torch.zeros(len(wanted), *self.encoded, dtype=self.dtype)

    def embed(self, encoded: Tensor) -> Tensor:
        return torch.zeros(len(encoded), *self.embedded)

    @property
    def unconditional(self) -> Tensor:
        return torch.zeros(self.encoded, dtype=self.dtype)


def without_texts(plan: "Plan") -> "Plan":
    """The plan with blank prompts; itself where it has none."""
    if not plan.conditions.is_open:
        return plan
    encoded = plan.conditions.encode(torch.zeros(1, dtype=torch.long))
    embedded = plan.conditions.embed(encoded)
    blank: Any = Blank(tuple(encoded.shape[1:]), tuple(embedded.shape[1:]), encoded.dtype)
    return replace(plan, conditions=blank)
