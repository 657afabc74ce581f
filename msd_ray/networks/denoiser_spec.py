"""What is needed to build an empty denoiser; stored beside weights, so that they can be loaded without the recipe."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import nn

from msd_ray.diffusion import EDMDenoiser
from msd_ray.errors import CorruptError
from msd_ray.networks.registry import KINDS, NetworkConfig
from msd_ray.ranges import in_range


@dataclass(frozen=True)
class DenoiserSpec:
    """network: its shape. sample_shape: [C, H, W] or [D]. classes: number of conditions, 0 for none.

    sigma_min: noise level at which the denoiser is the identity.
    """

    network: NetworkConfig
    sample_shape: tuple[int, ...]
    classes: int
    sigma_data: float = 0.5
    sigma_min: float = 0.0

    def build(self, precision: str = "fp32") -> EDMDenoiser:
        """A denoiser with fresh weights, drawn from torch's global random state."""
        network = self.network.build(self.sample_shape, self.classes)
        return EDMDenoiser(network, self.sigma_data, precision, self.sigma_min)

    def parameters(self) -> int:
        """Number of parameters, counted without allocating them."""
        with torch.device("meta"):
            return count_parameters(self.build())

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Any) -> "DenoiserSpec":
        """The inverse of `to_json`, also after a trip through JSON; raises CorruptError for anything else."""
        try:
            values = dict(raw)
            network = values.pop("network")
            kind = KINDS[network["kind"]]
            made = cls(network=kind(**_checked(kind(), network)), **_checked(cls(kind(), (1,), 0), values))
            return in_range(made)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptError(f"not a description of a network: {error}") from error


def _checked(example: DenoiserSpec | NetworkConfig, raw: dict[str, Any]) -> dict[str, Any]:
    """`raw` with tuples for lists. Raises TypeError unless each value is of the type that it has in `example`."""
    allowed = {field.name: getattr(example, field.name) for field in fields(example)}
    checked = {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
    for name, value in checked.items():
        like = allowed[name]
        fits = type(value) is type(like) or (type(like) is float and type(value) is int)
        if not fits or (isinstance(value, tuple) and any(type(item) is not int for item in value)):
            raise TypeError(f"{name} cannot be {value!r}")
    return checked


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
