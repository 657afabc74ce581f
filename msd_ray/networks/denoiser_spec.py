"""What is needed to build an empty denoiser; stored beside weights, so that they can be loaded without the recipe."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

from torch import nn

from msd_ray.diffusion import EDM, EDMDenoiser, Preconditioning, preconditioning_of
from msd_ray.errors import CorruptError
from msd_ray.networks.adapters import Adapter, attach, count_own
from msd_ray.networks.mlp import MLPConfig
from msd_ray.networks.registry import KINDS, Kind, kind_of
from msd_ray.networks.shapes import shapes_only
from msd_ray.own_code import is_own, refuse_strange


@dataclass(frozen=True)
class DenoiserSpec:
    """network: its shape. sample_shape: [C, H, W] or [D]. classes: number of conditions, 0 for none.

    sigma_min: noise level at which the denoiser is the identity. preconditioning: how it is made of its network.
    """

    network: Kind
    sample_shape: tuple[int, ...]
    classes: int
    sigma_data: float = 0.5
    sigma_min: float = 0.0
    preconditioning: Preconditioning = EDM()

    def build(self) -> EDMDenoiser:
        """A denoiser with fresh weights, drawn from torch's global random state."""
        network = self.network.build(self.sample_shape, self.classes)
        return EDMDenoiser(network, self.sigma_data, self.sigma_min, self.preconditioning, self.classes)

    def parameters(self) -> int:
        """Number of parameters, counted without allocating them."""
        return _parameters(self)

    def own_parameters(self, adapter: Adapter | None) -> int:
        """Those of a student that trains such adapters alone, or all; counted without allocating them."""
        return _own_parameters(self, adapter) if adapter else self.parameters()

    def to_json(self) -> dict[str, Any]:
        """Without EDM's own preconditioning: descriptions, and the names of caches, are older than the others."""
        said = asdict(self)
        if self.preconditioning == EDM():
            del said["preconditioning"]
        return said

    @classmethod
    def from_json(cls, raw: Any) -> "DenoiserSpec":
        """The inverse of `to_json`, also after a trip through JSON, of what a directory has. Raises CorruptError for
        anything else, UserError for a user's own kind of network that this process may not import."""
        try:
            values = dict(raw)
            network = dict(values.pop("network"))
            if network["kind"] not in KINDS and not is_own(str(network["kind"])):
                raise ValueError(f"there is no kind {network['kind']!r}")
            refuse_strange(network["kind"], "kind of network", "the description of a student or teacher")
            how = preconditioning_of(values.pop("preconditioning", {"kind": "edm"}))
            return cls(kind_of(network), **_checked(values), preconditioning=how)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptError(f"not a description of a network: {error}") from error


@lru_cache(maxsize=256)
def _parameters(spec: DenoiserSpec) -> int:
    with shapes_only():
        return count_parameters(spec.build())


def stored_parameters(students: Iterable[tuple[DenoiserSpec, Adapter | None]]) -> int:
    """Of all these students together, the frozen weights that adapters share counted once."""
    known = list(students)
    base = [spec.parameters() for spec, adapter in known if adapter][:1]
    return sum(base) + sum(spec.own_parameters(adapter) for spec, adapter in known)


@lru_cache(maxsize=256)
def _own_parameters(spec: DenoiserSpec, adapter: Adapter) -> int:
    with shapes_only():
        return count_own(attach(spec.build(), adapter))


_EXAMPLE = DenoiserSpec(MLPConfig(), (1,), 0)


def _checked(raw: dict[str, Any]) -> dict[str, Any]:
    """`raw` with tuples for lists. Raises TypeError unless each value is of the type that it has in `_EXAMPLE`."""
    allowed = {field.name: getattr(_EXAMPLE, field.name) for field in fields(_EXAMPLE)}
    checked = {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
    for name, value in checked.items():
        like = allowed[name]
        fits = type(value) is type(like) or (type(like) is float and type(value) is int)
        if not fits or (isinstance(value, tuple) and any(type(item) is not int for item in value)):
            raise TypeError(f"{name} cannot be {value!r}")
    return checked


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
