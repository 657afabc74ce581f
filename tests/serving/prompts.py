"""An ensemble of prompts, of random weights, on disk."""

from pathlib import Path

import torch

from msd_ray.conditions import ConditionsConfig, PartitionConfig, fit, make_conditions
from msd_ray.ensemble import Member, save_ensemble
from msd_ray.networks import DenoiserSpec, UNetConfig
from msd_ray.storage import Store

PROMPTS = tuple(f"{colour} {thing}" for colour in ("red", "green", "blue") for thing in ("heart", "car", "house"))
CONDITIONS = ConditionsConfig("prompts", {"width": 32})
SPEC = DenoiserSpec(UNetConfig(channels=8, multipliers=(1,), blocks=1, attention=(), dropout=0.0), (3, 8, 8), 32)


def random_members(k: int) -> tuple[Member, ...]:
    torch.manual_seed(0)
    states = [{name: torch.randn_like(x) / 4 for name, x in SPEC.build().state_dict().items()} for _ in range(k)]
    return tuple(Member(i, SPEC, 80.0, 10, state) for i, state in enumerate(states))


def saved_prompts(
    where: Path,
    k: int = 3,
    prompts: tuple[str, ...] = PROMPTS,
    conditions: ConditionsConfig = CONDITIONS,
    config: PartitionConfig | None = None,
) -> str:
    known = make_conditions(conditions, prompts)
    partition, recipe = fit(config or PartitionConfig(k, "kmeans"), known), {"conditions": vars(conditions)}
    save_ensemble(Store(str(where)), recipe, partition, known.kept, random_members(k))
    return str(where)
