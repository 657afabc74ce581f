"""`PixArtTransformer2DModel` of diffusers (PixArt-alpha, arXiv 2310.00426) as a network of ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor

from msd_ray.diffusion import Network
from msd_ray.extras import needed
from msd_ray.networks.patches import (
    Heads,
    HeadWidth,
    Patch,
    as_image,
    fewer_heads,
    keep_positions,
    patch_positions,
    patches_misfit,
    stock_arguments,
    width_of,
)
from msd_ray.networks.sizes import StudentSize
from msd_ray.ranges import BelowOne, Blocks, within

_TRAINED_FIRST = 64
"""The size of the samples whose positions larger ones share, unless interpolation_scale says otherwise."""


@dataclass(frozen=True)
class DiffusersPixArtConfig:
    """The arguments of a `PixArtTransformer2DModel`, as its config.json has them, without those that the data and the
    prompts' vectors decide. variances: whether it gives as many channels again, which are no part of its prediction."""

    kind: Literal["diffusers-pixart"] = "diffusers-pixart"
    num_attention_heads: Heads = 16
    attention_head_dim: HeadWidth = 72
    num_layers: Blocks = 28
    patch_size: Patch = 2
    dropout: BelowOne = 0.0
    attention_bias: bool = True
    activation_fn: Literal["gelu-approximate", "gelu", "geglu"] = "gelu-approximate"
    upcast_attention: bool = False
    norm_eps: Annotated[float, within(gt=0, le=1)] = 1e-6
    interpolation_scale: Annotated[float, within(gt=0, le=1024)] | None = None
    variances: bool = True
    takes: ClassVar = "t5-tokens"

    def build(self, sample_shape: tuple[int, ...], classes: int) -> "DiffusersPixArt":
        return DiffusersPixArt(self, sample_shape, classes)

    def cut(self, size: StudentSize) -> "DiffusersPixArtConfig":
        return fewer_heads(self, size)

    def misfit(self, sample_shape: tuple[int, ...]) -> str:
        return patches_misfit(self, sample_shape)

    def positions(self, sample_shape: tuple[int, ...]) -> Tensor:
        """Of its tokens, [1, tokens, width], which diffusers does not keep with the weights."""
        scale = self.interpolation_scale or max(sample_shape[-1] // _TRAINED_FIRST, 1)
        return patch_positions(self, sample_shape, scale)


PIXART_KEYS: Mapping[str, Any] = {
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "attention_type": "default",
}
"""Arguments that must be as they are here."""


def pixart_misfit(said: Mapping[str, Any], config: DiffusersPixArtConfig) -> str:
    """What else in its config.json is not read; empty for nothing."""
    sizes = said.get("use_additional_conditions")
    if sizes or (sizes is None and said.get("sample_size") == 128):
        return "it is also given the size of images (use_additional_conditions), which is not read"
    if (crossed := said.get("cross_attention_dim", 1152)) != width_of(config):
        return f"its cross_attention_dim is {crossed!r}, and only that of its tokens, {width_of(config)}, is read"
    return ""


class DiffusersPixArt(Network):
    """F(x [B, C, H, W], step [B], condition [B, tokens, classes + 1]) -> [B, C, H, W]. Behind the vector of a prompt's
    token, its last entry is 1, and 0 where the token only fills up."""

    def __init__(self, config: DiffusersPixArtConfig, sample_shape: tuple[int, ...], classes: int) -> None:
        """classes: the width of a token's vector. Raises ValueError without."""
        super().__init__()
        if not classes:
            raise ValueError(f"a network of kind {config.kind} must have prompts")
        self.channels, size, _ = sample_shape
        self.model = needed("diffusers", "hf").PixArtTransformer2DModel(
            cross_attention_dim=width_of(config),
            caption_channels=classes,
            use_additional_conditions=False,
            **stock_arguments(config, sample_shape),
        )
        keep_positions(self.model.pos_embed)
        self.side, self.halfway = size // config.patch_size, (config.num_layers + 1) // 2
        self.feature_shapes = [(width_of(config), self.side, self.side)]

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> Tensor:
        out: Tensor = self.model(
            x,
            timestep=c_noise,
            encoder_hidden_states=condition[..., :-1],
            encoder_attention_mask=condition[..., -1],
            return_dict=False,
        )[0]
        return out[:, : self.channels]

    def encode(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> list[Tensor]:
        """The tokens halfway, as an image: [B, *feature_shapes[0]]."""
        model, h = self.model, self.model.pos_embed(x)
        time, _ = model.adaln_single(c_noise, batch_size=len(x), hidden_dtype=h.dtype)
        text, hidden = model.caption_projection(condition[..., :-1]), (1 - condition[..., -1]) * -10_000.0
        for block in model.transformer_blocks[: self.halfway]:
            h = block(h, encoder_hidden_states=text, encoder_attention_mask=hidden[:, None], timestep=time)
        return [as_image(h, self.side)]
