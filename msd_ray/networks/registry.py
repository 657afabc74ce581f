"""The kinds of networks. A new one is a frozen dataclass with the methods of `Kind`, named in `KINDS`; or it lies in a
user's own module, and recipes name it as `module:Class`."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Protocol

from torch import nn

from msd_ray.diffusion import Network
from msd_ray.errors import UserError
from msd_ray.networks import efficientnet
from msd_ray.networks.diffusers_dit import DiffusersDiTConfig
from msd_ray.networks.diffusers_pixart import DiffusersPixArtConfig
from msd_ray.networks.diffusers_sd3 import DiffusersSD3Config
from msd_ray.networks.diffusers_sdxl import DiffusersSDXLConfig
from msd_ray.networks.diffusers_unet import DiffusersUNetConfig
from msd_ray.networks.diffusers_unet_condition import DiffusersConditionUNetConfig
from msd_ray.networks.gaussian_mixture import GaussianMixtureConfig
from msd_ray.networks.mlp import MLPConfig
from msd_ray.networks.picture_unet import PictureUNetConfig
from msd_ray.networks.sizes import StudentSize
from msd_ray.networks.songunet import SongUNetConfig
from msd_ray.networks.unet import UNetConfig
from msd_ray.own_code import imported, is_own
from msd_ray.validation import made_of


class Kind(Protocol):
    """The shape of a network: a frozen dataclass whose fields have defaults and are plain data. What the data decides
    (resolution, channels, classes) is not part of it. Where networks take several vectors of a prompt, the class
    attribute `takes` names the embedder that makes them."""

    @property
    def kind(self) -> str:
        """A field: its name in `KINDS`, or `module:Class`."""
        ...

    def build(self, sample_shape: tuple[int, ...], classes: int) -> Network:
        """A network for samples of this shape, [C, H, W] or [D], with fresh weights from torch's global random state.
        Raises ValueError where it cannot be built for them."""
        ...

    def cut(self, size: StudentSize) -> "Kind":
        """The shape of a student of that size. Raises ValueError where `size` says what this kind does not have."""
        ...

    def misfit(self, sample_shape: tuple[int, ...]) -> str:
        """What in its configuration makes no sense for samples of this shape, and what to write; empty for nothing."""
        ...


KINDS: dict[str, type[Any]] = {
    "unet": UNetConfig,
    "mlp": MLPConfig,
    "gaussian-mixture": GaussianMixtureConfig,
    "picture-unet": PictureUNetConfig,
    "songunet": SongUNetConfig,
    "diffusers-unet": DiffusersUNetConfig,
    "diffusers-unet-condition": DiffusersConditionUNetConfig,
    "diffusers-sdxl": DiffusersSDXLConfig,
    "diffusers-dit": DiffusersDiTConfig,
    "diffusers-pixart": DiffusersPixArtConfig,
    "diffusers-sd3": DiffusersSD3Config,
}
PRETRAINED: dict[str, Callable[[], nn.Module]] = {efficientnet.NAME: efficientnet.network}
"""Frozen networks whose features a discriminator may judge, each with its published weights, on the CPU."""
_METHODS = ("build", "cut", "misfit")


def kind_class(name: str) -> type[Any]:
    """The class of a kind: one of `KINDS`, or a user's own. Raises UserError where there is none."""
    if name in KINDS:
        return KINDS[name]
    if not is_own(name):
        raise UserError(f"network.kind: there is no {name!r}, only {', '.join(KINDS)}, or module:Class for your own")
    found = imported(name, "network.kind")
    if not (isinstance(found, type) and is_dataclass(found) and all(hasattr(found, method) for method in _METHODS)):
        raise UserError(f"network.kind: {name} is not a dataclass with the methods {', '.join(_METHODS)}")
    if "kind" not in {field.name for field in fields(found)}:
        raise UserError(f"network.kind: {name} has no field `kind`, in which its name is kept")
    return found


def kind_of(raw: Mapping[str, Any], at: str = "") -> Kind:
    """The network that plain data describe. at: their path, for messages. Raises UserError where there is no such kind,
    ValueError where a key or a value is wrong."""
    kind: Kind = made_of(kind_class(str(raw["kind"])), raw, at)
    return kind
