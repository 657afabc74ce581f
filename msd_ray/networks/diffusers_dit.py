"""`DiTTransformer2DModel` of diffusers (DiT, arXiv 2212.09748) as a network of ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

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


@dataclass(frozen=True)
class DiffusersDiTConfig:
    """The arguments of a `DiTTransformer2DModel`, as its config.json has them, without those that the data decides.
    variances: whether it gives as many channels again, which are no part of its prediction."""

    kind: Literal["diffusers-dit"] = "diffusers-dit"
    num_attention_heads: Heads = 16
    attention_head_dim: HeadWidth = 72
    num_layers: Blocks = 28
    patch_size: Patch = 2
    dropout: BelowOne = 0.0
    attention_bias: bool = True
    activation_fn: Literal["gelu-approximate", "gelu", "geglu"] = "gelu-approximate"
    upcast_attention: bool = False
    norm_eps: Annotated[float, within(gt=0, le=1)] = 1e-5
    variances: bool = True

    def build(self, sample_shape: tuple[int, ...], classes: int) -> "DiffusersDiT":
        return DiffusersDiT(self, sample_shape, classes)

    def cut(self, size: StudentSize) -> "DiffusersDiTConfig":
        return fewer_heads(self, size)

    def misfit(self, sample_shape: tuple[int, ...]) -> str:
        return patches_misfit(self, sample_shape)

    def positions(self, sample_shape: tuple[int, ...]) -> Tensor:
        """Of its tokens, [1, tokens, width], which diffusers does not keep with the weights."""
        return patch_positions(self, sample_shape)


DIT_KEYS: Mapping[str, Any] = {"norm_type": "ada_norm_zero", "norm_elementwise_affine": False}
"""Arguments that must be as they are here."""


class DiffusersDiT(Network):
    """F(x [B, C, H, W], step [B], condition [B]) -> [B, C, H, W]."""

    def __init__(self, config: DiffusersDiTConfig, sample_shape: tuple[int, ...], classes: int) -> None:
        """Raises ValueError without classes, which these networks must have."""
        super().__init__()
        if not classes:
            raise ValueError(f"a network of kind {config.kind} must have classes")
        self.channels, size, _ = sample_shape
        self.model = needed("diffusers", "hf").DiTTransformer2DModel(
            num_embeds_ada_norm=classes, **stock_arguments(config, sample_shape)
        )
        for block in self.model.transformer_blocks:  # which would drop labels at random while a student trains
            block.norm1.emb.class_embedder.dropout_prob = 0.0
        keep_positions(self.model.pos_embed)
        self.width, self.side = width_of(config), size // config.patch_size
        self.halfway = (config.num_layers + 1) // 2
        self.feature_shapes = [(self.width, self.side, self.side)]

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> Tensor:
        out: Tensor = self.model(x, c_noise, condition, return_dict=False)[0]
        return out[:, : self.channels]

    def encode(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> list[Tensor]:
        """The tokens halfway, as an image: [B, *feature_shapes[0]]."""
        h = self.model.pos_embed(x)
        for block in self.model.transformer_blocks[: self.halfway]:
            h = block(h, timestep=c_noise, class_labels=condition)
        return [as_image(h, self.side)]
