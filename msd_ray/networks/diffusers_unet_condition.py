"""`UNet2DConditionModel` of diffusers, Stable Diffusion's network (arXiv 2112.10752), as one of ours; SDXL's is in
`diffusers_sdxl`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import lcm
from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor

from msd_ray.diffusion import Network
from msd_ray.extras import needed
from msd_ray.networks.sizes import StudentSize
from msd_ray.ranges import BelowOne, Blocks, Width, within

DownBlock = Literal["DownBlock2D", "CrossAttnDownBlock2D"]
UpBlock = Literal["UpBlock2D", "CrossAttnUpBlock2D"]


@dataclass(frozen=True)
class DiffusersConditionUNetConfig:
    """The arguments of a `UNet2DConditionModel`, as its config.json has them, without those that the data and the
    prompts' vectors decide. attention_head_dim: how many heads, in all levels or in each; diffusers calls it so."""

    kind: Literal["diffusers-unet-condition"] = "diffusers-unet-condition"
    block_out_channels: Annotated[tuple[Width, ...], within(min_length=1, max_length=16)] = (320, 640, 1280, 1280)
    down_block_types: tuple[DownBlock, ...] = (
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    )
    up_block_types: tuple[UpBlock, ...] = (
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    )
    layers_per_block: Blocks = 2
    attention_head_dim: Width | tuple[Width, ...] = 8
    use_linear_projection: bool = False
    upcast_attention: bool | None = False
    downsample_padding: Annotated[int, within(ge=0, le=1)] = 1
    mid_block_scale_factor: Annotated[float, within(gt=0, le=1000)] = 1.0
    dropout: BelowOne = 0.0
    act_fn: Literal["silu", "swish", "gelu", "relu", "mish"] = "silu"
    norm_num_groups: Width = 32
    norm_eps: Annotated[float, within(gt=0, le=1)] = 1e-5
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    freq_shift: Annotated[int, within(ge=0, le=1)] = 0
    flip_sin_to_cos: bool = True
    variances: bool = False
    takes: ClassVar = "clip-tokens"

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        if not levels == len(self.down_block_types) == len(self.up_block_types) == len(self._heads):
            raise ValueError(
                "block_out_channels, down_block_types, up_block_types and attention_head_dim, where it is a list, must "
                "have one entry per level"
            )

    def build(self, sample_shape: tuple[int, ...], classes: int) -> "DiffusersConditionUNet":
        return DiffusersConditionUNet(self, sample_shape, classes, self.arguments())

    def arguments(self) -> dict[str, Any]:
        """Those that diffusers' class has by the same names."""
        return {name: value for name, value in asdict(self).items() if name not in ("kind", "variances")}

    def cut(self, size: StudentSize) -> "DiffusersConditionUNetConfig":
        """As many heads, and other widths to the nearest that these and the groups divide."""
        if size.multipliers is not None:
            raise ValueError("multipliers apply to networks of kind unet; of this one give channel_factor and blocks")
        factor, units = size.channel_factor, [lcm(self.norm_num_groups, heads) for heads in self._heads]
        widths = tuple(
            width if factor == 1 else max(unit, round(width * factor / unit) * unit)
            for width, unit in zip(self.block_out_channels, units, strict=True)
        )
        return replace(self, block_out_channels=widths, layers_per_block=size.blocks or self.layers_per_block)

    def misfit(self, sample_shape: tuple[int, ...]) -> str:
        halvings = len(self.block_out_channels) - 1
        if len(sample_shape) == 3 and sample_shape[1] == sample_shape[2] and sample_shape[1] % 2**halvings == 0:
            return ""
        return f"network: {self.kind} takes square samples whose size is a multiple of {2**halvings}"

    @property
    def _heads(self) -> tuple[int, ...]:
        said = self.attention_head_dim
        return said if isinstance(said, tuple) else (said,) * len(self.block_out_channels)


CONDITION_UNET_KEYS: Mapping[str, Any] = {
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "attention_type": "default",
    "transformer_layers_per_block": 1,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "resnet_out_scale_factor": 1.0,
    "addition_embed_type": None,
    "addition_embed_type_num_heads": 64,
    "num_attention_heads": None,
}
"""Arguments that must be as they are here."""


class DiffusersConditionUNet(Network):
    """F(x [B, C, H, W], step [B], condition [B, tokens, classes]) -> [B, C, H, W]."""

    def __init__(
        self,
        config: DiffusersConditionUNetConfig,
        sample_shape: tuple[int, ...],
        classes: int,
        arguments: Mapping[str, Any],
    ) -> None:
        """classes: the width of a token's vector. arguments: of diffusers' class, without those that the data decide.
        Raises ValueError without prompts."""
        super().__init__()
        if not classes:
            raise ValueError(f"a network of kind {config.kind} must have prompts")
        self.channels, size, _ = sample_shape
        self.model = needed("diffusers", "hf").UNet2DConditionModel(
            sample_size=size,
            in_channels=self.channels,
            out_channels=self.channels * (2 if config.variances else 1),
            cross_attention_dim=classes,
            **arguments,
        )
        self.feature_shapes = [
            (width, size >> level, size >> level) for level, width in enumerate(config.block_out_channels)
        ]

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> Tensor:
        tokens, more = self.told(condition)
        out: Tensor = self.model(x, c_noise, tokens, added_cond_kwargs=more, return_dict=False)[0]
        return out[:, : self.channels]

    def told(self, condition: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The vectors of the tokens, and what else diffusers' class takes."""
        return condition, {}

    def encode(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> list[Tensor]:
        """The last feature map of each level on the way down, [B, *feature_shapes[level]]; of the narrowest what
        `mid_block` makes of it, which discriminators of DMD2 see."""
        tokens, more = self.told(condition)
        emb = self.model.time_embedding(self.model.time_proj(c_noise).to(x.dtype))
        if (other := self.model.get_aug_embed(emb, tokens, more)) is not None:
            emb = emb + other
        h, features = self.model.conv_in(x), []
        for block in self.model.down_blocks:
            seen = {"encoder_hidden_states": tokens} if getattr(block, "has_cross_attention", False) else {}
            h, maps = block(hidden_states=h, temb=emb, **seen)
            features.append(maps[-2] if block.downsamplers is not None else maps[-1])
        return [*features[:-1], self.model.mid_block(h, emb, encoder_hidden_states=tokens)]
