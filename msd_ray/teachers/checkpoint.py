"""What a file of a teacher holds, as one of our denoisers, whatever its format."""

from dataclasses import dataclass

import torch
from torch import Tensor

from msd_ray.networks import DenoiserSpec
from msd_ray.networks.shapes import shapes_only


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
