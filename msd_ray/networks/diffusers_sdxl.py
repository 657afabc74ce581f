"""SDXL's `UNet2DConditionModel` of diffusers (arXiv 2307.01952) as a network of ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from msd_ray.networks.diffusers_unet_condition import (
    CONDITION_UNET_KEYS,
    DiffusersConditionUNet,
    DiffusersConditionUNetConfig,
    DownBlock,
    UpBlock,
)
from msd_ray.ranges import Blocks, Width, within

_SIZES = 6
"""Numbers that say the size of an image: height and width, top and left of what was cut off, and the wanted size."""
_PIXELS = 8
"""Of an image, in either direction, for one of its latents."""


@dataclass(frozen=True)
class DiffusersSDXLConfig(DiffusersConditionUNetConfig):
    """The arguments of SDXL's `UNet2DConditionModel`, as its config.json has them, without those that the data and the
    prompts' vectors decide. transformer_layers_per_block: in all levels or in each. image_size: which the network is
    told of every image, in pixels, as its size and as the wanted one, with nothing cut off; null: 8 times that of the
    latents."""

    kind: Literal["diffusers-sdxl"] = "diffusers-sdxl"  # type: ignore[assignment]
    block_out_channels: Annotated[tuple[Width, ...], within(min_length=1, max_length=16)] = (320, 640, 1280)
    down_block_types: tuple[DownBlock, ...] = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
    up_block_types: tuple[UpBlock, ...] = ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
    attention_head_dim: Width | tuple[Width, ...] = (5, 10, 20)
    use_linear_projection: bool = True
    transformer_layers_per_block: Blocks | tuple[Blocks, ...] = (1, 2, 10)
    addition_time_embed_dim: Width = 256
    projection_class_embeddings_input_dim: Width = 2816
    image_size: Width | None = None
    takes: ClassVar = "sdxl-tokens"

    def __post_init__(self) -> None:
        super().__post_init__()
        layers = self.transformer_layers_per_block
        if isinstance(layers, tuple) and len(layers) != len(self.block_out_channels):
            raise ValueError("transformer_layers_per_block, where it is a list, must have one entry per level")
        if self.pooled < 1:
            raise ValueError(
                f"projection_class_embeddings_input_dim must be above {_SIZES} times addition_time_embed_dim"
            )

    def build(self, sample_shape: tuple[int, ...], classes: int) -> "DiffusersSDXL":
        return DiffusersSDXL(self, sample_shape, classes)

    def arguments(self) -> dict[str, Any]:
        said = super().arguments()
        del said["image_size"]
        return {**said, "addition_embed_type": "text_time"}

    @property
    def pooled(self) -> int:
        """The width of a whole prompt's vector."""
        return self.projection_class_embeddings_input_dim - _SIZES * self.addition_time_embed_dim

    def pixels(self, sample_shape: tuple[int, ...]) -> int:
        """The size of images that it is told."""
        return self.image_size or _PIXELS * sample_shape[-1]


SDXL_KEYS: Mapping[str, Any] = {
    **{key: value for key, value in CONDITION_UNET_KEYS.items() if key != "transformer_layers_per_block"},
    "addition_embed_type": "text_time",
}
"""Arguments that must be as they are here."""


class DiffusersSDXL(DiffusersConditionUNet):
    """F(x [B, C, H, W], step [B], condition [B, 1 + tokens, classes]) -> [B, C, H, W]. The first entries of the first
    row are the vector of the whole prompt, the other rows those of its tokens."""

    def __init__(self, config: DiffusersSDXLConfig, sample_shape: tuple[int, ...], classes: int) -> None:
        """classes: the width of a token's vector. Raises ValueError where that of the whole prompt is wider."""
        if classes < config.pooled:
            raise ValueError(
                f"a network of kind {config.kind} takes prompts whose tokens have at least {config.pooled} entries, "
                f"not {classes}"
            )
        super().__init__(config, sample_shape, classes, config.arguments())
        self.pooled, self.pixels = config.pooled, config.pixels(sample_shape)

    def told(self, condition: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        whole, tokens = condition[:, 0, : self.pooled], condition[:, 1:]
        sizes = torch.full((len(condition), 2), float(self.pixels), device=condition.device)
        return tokens, {"text_embeds": whole, "time_ids": torch.cat([pad(sizes, (0, 2)), sizes], dim=1)}
