"""`DiTTransformer2DModel` of diffusers (DiT, arXiv 2212.09748) as a network of ours."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

from torch import Tensor

from msd_ray.diffusion import Network
from msd_ray.extras import needed
from msd_ray.networks.sizes import StudentSize
from msd_ray.ranges import BelowOne, Blocks, within

Heads = Annotated[int, within(ge=1, le=256)]
HeadWidth = Annotated[int, within(ge=4, le=1024, multiple_of=4)]


@dataclass(frozen=True)
class DiffusersDiTConfig:
    """The arguments of a `DiTTransformer2DModel`, as its config.json has them, without those that the data decides.
    variances: whether it gives as many channels again, which are no part of its prediction."""

    kind: Literal["diffusers-dit"] = "diffusers-dit"
    num_attention_heads: Heads = 16
    attention_head_dim: HeadWidth = 72
    num_layers: Blocks = 28
    patch_size: Annotated[int, within(ge=1, le=64)] = 2
    dropout: BelowOne = 0.0
    attention_bias: bool = True
    activation_fn: Literal["gelu-approximate", "gelu", "geglu"] = "gelu-approximate"
    upcast_attention: bool = False
    norm_eps: Annotated[float, within(gt=0, le=1)] = 1e-5
    variances: bool = True

    def build(self, sample_shape: tuple[int, ...], classes: int) -> "DiffusersDiT":
        return DiffusersDiT(self, sample_shape, classes)

    def cut(self, size: StudentSize) -> "DiffusersDiTConfig":
        """Fewer heads of the same width."""
        if size.multipliers is not None:
            raise ValueError("multipliers apply to networks of kind unet; of this one give channel_factor and blocks")
        heads = max(1, round(self.num_attention_heads * size.channel_factor))
        return replace(self, num_attention_heads=heads, num_layers=size.blocks or self.num_layers)

    def misfit(self, sample_shape: tuple[int, ...]) -> str:
        if len(sample_shape) == 3 and sample_shape[1] == sample_shape[2] and sample_shape[1] % self.patch_size == 0:
            return ""
        return f"network: {self.kind} takes square images whose size is a multiple of {self.patch_size}"


DIT_KEYS: Mapping[str, Any] = {"norm_type": "ada_norm_zero", "norm_elementwise_affine": False}
"""Arguments that must be as they are here."""


def positions(config: DiffusersDiTConfig, sample_shape: tuple[int, ...]) -> Tensor:
    """Of the tokens of such samples, [1, tokens, width]; they follow from the shapes alone."""
    channels, size, _ = sample_shape
    width = config.num_attention_heads * config.attention_head_dim
    embed = needed("diffusers.models.embeddings", "hf").PatchEmbed(size, size, config.patch_size, channels, width)
    known: Tensor = embed.pos_embed
    return known


class DiffusersDiT(Network):
    """F(x [B, C, H, W], step [B], condition [B]) -> [B, C, H, W]."""

    def __init__(self, config: DiffusersDiTConfig, sample_shape: tuple[int, ...], classes: int) -> None:
        """Raises ValueError without classes, which these networks must have."""
        super().__init__()
        if not classes:
            raise ValueError(f"a network of kind {config.kind} must have classes")
        self.channels, size, _ = sample_shape
        arguments = {name: value for name, value in asdict(config).items() if name not in ("kind", "variances")}
        self.model = needed("diffusers", "hf").DiTTransformer2DModel(
            sample_size=size,
            in_channels=self.channels,
            out_channels=self.channels * (2 if config.variances else 1),
            num_embeds_ada_norm=classes,
            **arguments,
        )
        for block in self.model.transformer_blocks:  # which would drop labels at random while a student trains
            block.norm1.emb.class_embedder.dropout_prob = 0.0
        place = self.model.pos_embed  # its positions are kept with the weights, since they may be built without memory
        place.register_buffer("pos_embed", place.pos_embed, persistent=True)
        self.width, self.side = config.num_attention_heads * config.attention_head_dim, size // config.patch_size
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
        return [h.transpose(1, 2).unflatten(2, (self.side, self.side))]
