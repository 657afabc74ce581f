"""`UNet2DModel` of diffusers as a network of ours."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

from torch import Tensor

from msd_ray.diffusion import Network
from msd_ray.extras import needed
from msd_ray.networks.sizes import StudentSize
from msd_ray.ranges import BelowOne, Blocks, Width, within

DownBlock = Literal["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"]
UpBlock = Literal["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"]
_Eps = Annotated[float, within(gt=0, le=1)]
_NOT_THEIRS = ("kind", "variances")


@dataclass(frozen=True)
class DiffusersUNetConfig:
    """The arguments of a `UNet2DModel`, as its config.json has them, without those that the data decides. variances:
    whether it gives as many channels again, which are no part of its prediction."""

    kind: Literal["diffusers-unet"] = "diffusers-unet"
    block_out_channels: Annotated[tuple[Width, ...], within(min_length=1, max_length=16)] = (224, 448, 672, 896)
    down_block_types: tuple[DownBlock, ...] = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
    up_block_types: tuple[UpBlock, ...] = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    layers_per_block: Blocks = 2
    mid_block_scale_factor: Annotated[float, within(gt=0, le=1000)] = 1.0
    downsample_padding: Annotated[int, within(ge=0, le=1)] = 1
    downsample_type: Literal["conv", "resnet"] = "conv"
    upsample_type: Literal["conv", "resnet"] = "conv"
    dropout: BelowOne = 0.0
    act_fn: Literal["silu", "swish", "gelu", "relu", "mish"] = "silu"
    attention_head_dim: Width | None = 8
    norm_num_groups: Width = 32
    attn_norm_num_groups: Width | None = None
    norm_eps: _Eps = 1e-5
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    add_attention: bool = True
    time_embedding_dim: Width | None = None
    freq_shift: Annotated[int, within(ge=0, le=1)] = 0
    flip_sin_to_cos: bool = True
    variances: bool = False

    def __post_init__(self) -> None:
        if not len(self.block_out_channels) == len(self.down_block_types) == len(self.up_block_types):
            raise ValueError("block_out_channels, down_block_types and up_block_types must have one entry per level")

    def build(self, sample_shape: tuple[int, ...], classes: int) -> "DiffusersUNet":
        return DiffusersUNet(self, sample_shape, classes)

    def cut(self, size: StudentSize) -> "DiffusersUNetConfig":
        """Widths to the nearest multiple of the number of groups."""
        if size.multipliers is not None:
            raise ValueError("multipliers apply to networks of kind unet; of this one give channel_factor and blocks")
        unit = self.norm_num_groups
        widths = (max(unit, round(width * size.channel_factor / unit) * unit) for width in self.block_out_channels)
        return replace(self, block_out_channels=tuple(widths), layers_per_block=size.blocks or self.layers_per_block)

    def misfit(self, sample_shape: tuple[int, ...]) -> str:
        halvings = len(self.block_out_channels) - 1
        if len(sample_shape) == 3 and sample_shape[1] == sample_shape[2] and sample_shape[1] % 2**halvings == 0:
            return ""
        return f"network: {self.kind} takes square images whose size is a multiple of {2**halvings}"


UNET_KEYS: Mapping[str, Any] = {
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "mid_block_type": "UNetMidBlock2D",
    "class_embed_type": None,
}
"""Arguments that must be as they are here."""


class DiffusersUNet(Network):
    """F(x [B, C, H, W], step [B], condition [B]) -> [B, C, H, W]."""

    def __init__(self, config: DiffusersUNetConfig, sample_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.channels, size, _ = sample_shape
        self.classes = classes
        arguments = {name: value for name, value in asdict(config).items() if name not in _NOT_THEIRS}
        self.model = needed("diffusers", "hf").UNet2DModel(
            sample_size=size,
            in_channels=self.channels,
            out_channels=self.channels * (2 if config.variances else 1),
            num_class_embeds=classes or None,
            **arguments,
        )
        self.feature_shapes = [
            (width, size >> level, size >> level) for level, width in enumerate(config.block_out_channels)
        ]

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> Tensor:
        out: Tensor = self.model(x, c_noise, self._labels(condition), return_dict=False)[0]
        return out[:, : self.channels]

    def encode(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> list[Tensor]:
        """The last feature map of each level on the way down, [B, *feature_shapes[level]]."""
        emb = self.model.time_embedding(self.model.time_proj(c_noise).to(x.dtype))
        if self.classes:
            emb = emb + self.model.class_embedding(condition)
        h, features = self.model.conv_in(x), []
        for block in self.model.down_blocks:
            h, maps = block(hidden_states=h, temb=emb)
            features.append(maps[-2] if block.downsamplers is not None else maps[-1])
        return features

    def _labels(self, condition: Tensor) -> Tensor | None:
        return condition if self.classes else None
