"""What a file of a teacher holds, as one of our denoisers, whatever its format."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from msd_ray.networks import DenoiserSpec
from msd_ray.networks.shapes import shapes_only
from msd_ray.teachers.safe_pickle import Array


@dataclass(frozen=True)
class Checkpoint:
    """format: as in SOURCES. network: as its authors call it. parameters: in the file, also those that a denoiser of
    ours does not need. weights: the state dict of what `spec` builds. licence: of the weights, as far as known."""

    format: str
    network: str
    parameters: int
    spec: DenoiserSpec
    weights: dict[str, Tensor]
    licence: str


def tensors_of(arrays: Mapping[str, Array], path: Path) -> dict[str, Tensor]:
    """Copies, in float32, of the arrays that a file was read as. Raises ValueError where they are more than it has."""
    if sum(value.nbytes for value in arrays.values()) > path.stat().st_size:
        raise ValueError("its tensors overlap")
    return {name: torch.from_numpy(value.astype("float32")) for name, value in arrays.items()}


def check_weights(spec: DenoiserSpec, weights: dict[str, Tensor]) -> None:
    """Raises ValueError unless they are the state dict of what `spec` builds, in finite float32."""
    with shapes_only():
        wanted = {name: value.shape for name, value in spec.build().state_dict().items()}
    if missing := [*(wanted.keys() - weights.keys()), *(weights.keys() - wanted.keys())]:
        there = "lacks" if missing[0] in wanted else "has, where its configuration does not,"
        raise ValueError(f"its network {there} the tensor {missing[0]}")
    for name, value in weights.items():
        if value.shape != wanted[name]:
            shapes = f"{list(value.shape)}, its configuration {list(wanted[name])}"
            raise ValueError(f"its tensor {name} has the shape {shapes}")
        if value.dtype != torch.float32 or not torch.isfinite(value).all():
            raise ValueError(f"its tensor {name} is not of finite numbers in float32")
