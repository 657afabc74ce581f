"""The classes of diffusers that teachers may have. A new one is a network kind of ours, and a line in `CLASSES`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from msd_ray.networks import (
    DiffusersConditionUNetConfig,
    DiffusersDiTConfig,
    DiffusersPixArtConfig,
    DiffusersSD3Config,
    DiffusersSDXLConfig,
    DiffusersUNetConfig,
)
from msd_ray.networks.diffusers_dit import DIT_KEYS
from msd_ray.networks.diffusers_pixart import PIXART_KEYS, pixart_misfit
from msd_ray.networks.diffusers_sd3 import sd3_misfit
from msd_ray.networks.diffusers_sdxl import SDXL_KEYS
from msd_ray.networks.diffusers_unet import UNET_KEYS
from msd_ray.networks.diffusers_unet_condition import CONDITION_UNET_KEYS


@dataclass(frozen=True)
class ModelClass:
    """kind: our kind of network. fixed: the arguments that must be as they are there. counted: the argument that says
    how many classes there are, or how wide the vectors of a prompt. also: arguments without effect, or that `misfit`
    looks at: it says of a config.json what else of it is not read, empty for nothing. unused: tensors that older
    versions kept."""

    kind: type[Any]
    fixed: Mapping[str, Any]
    counted: str
    also: tuple[str, ...] = ()
    misfit: Callable[[Mapping[str, Any], Any], str] = lambda said, config: ""
    unused: tuple[str, ...] = ()


_OF_SDXL = "UNet2DConditionModel of SDXL"
CLASSES = {
    "UNet2DModel": ModelClass(DiffusersUNetConfig, UNET_KEYS, "num_class_embeds"),
    "UNet2DConditionModel": ModelClass(DiffusersConditionUNetConfig, CONDITION_UNET_KEYS, "cross_attention_dim"),
    _OF_SDXL: ModelClass(DiffusersSDXLConfig, SDXL_KEYS, "cross_attention_dim"),
    "DiTTransformer2DModel": ModelClass(DiffusersDiTConfig, DIT_KEYS, "num_embeds_ada_norm"),
    "PixArtTransformer2DModel": ModelClass(
        DiffusersPixArtConfig,
        PIXART_KEYS,
        "caption_channels",
        ("cross_attention_dim", "num_embeds_ada_norm", "use_additional_conditions"),
        pixart_misfit,
        ("caption_projection.y_embedding",),
    ),
    "SD3Transformer2DModel": ModelClass(
        DiffusersSD3Config, {}, "joint_attention_dim", ("caption_projection_dim",), sd3_misfit
    ),
}
_BEFORE_0_28 = "Transformer2DModel"


def class_name(said: Mapping[str, Any]) -> str:
    """What the class that a config.json names is called in `CLASSES`."""
    name = str(said.get("_class_name"))
    if name == "UNet2DConditionModel" and said.get("addition_embed_type") == "text_time":
        return _OF_SDXL
    if name != _BEFORE_0_28:
        return name
    return "PixArtTransformer2DModel" if said.get("norm_type") == "ada_norm_single" else "DiTTransformer2DModel"
