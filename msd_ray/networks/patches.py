"""What networks of tokens, each a patch of the sample, have in common."""

from dataclasses import asdict, replace
from typing import Annotated, Any, TypeVar

from torch import Tensor

from msd_ray.extras import needed
from msd_ray.networks.sizes import StudentSize
from msd_ray.ranges import within

Heads = Annotated[int, within(ge=1, le=256)]
HeadWidth = Annotated[int, within(ge=4, le=1024, multiple_of=4)]
Patch = Annotated[int, within(ge=1, le=64)]
_Config = TypeVar("_Config", bound=Any)


def width_of(config: Any) -> int:
    """Of a token's vector."""
    width: int = config.num_attention_heads * config.attention_head_dim
    return width


def fewer_heads(config: _Config, size: StudentSize) -> _Config:
    """That of a smaller network: fewer heads of the same width, and fewer layers. Raises ValueError for multipliers."""
    if size.multipliers is not None:
        raise ValueError("multipliers apply to networks of kind unet; of this one give channel_factor and blocks")
    heads = max(1, round(config.num_attention_heads * size.channel_factor))
    cut: _Config = replace(config, num_attention_heads=heads, num_layers=size.blocks or config.num_layers)
    return cut


def patches_misfit(config: Any, sample_shape: tuple[int, ...]) -> str:
    """As `Kind.misfit`."""
    if len(sample_shape) == 3 and sample_shape[1] == sample_shape[2] and sample_shape[1] % config.patch_size == 0:
        return ""
    return f"network: {config.kind} takes square images whose size is a multiple of {config.patch_size}"


def patch_positions(config: Any, sample_shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
    """Of the tokens of such samples, [1, tokens, width]; they follow from the shapes alone. scale: by how much they lie
    closer than in the samples of a network that was trained first on smaller ones."""
    channels, size, _ = sample_shape
    embed = needed("diffusers.models.embeddings", "hf").PatchEmbed(
        size, size, config.patch_size, channels, width_of(config), interpolation_scale=scale
    )
    known: Tensor = embed.pos_embed
    return known


def stock_arguments(config: Any, sample_shape: tuple[int, ...]) -> dict[str, Any]:
    """What diffusers' class of these networks is made with, but for what it knows of conditions. Where `variances` are
    predicted too, its output has as many channels again."""
    channels, size, _ = sample_shape
    own = {name: value for name, value in asdict(config).items() if name not in ("kind", "variances")}
    out = 2 * channels if getattr(config, "variances", False) else channels
    return {"sample_size": size, "in_channels": channels, "out_channels": out, **own}


def keep_positions(place: Any) -> None:
    """With the weights, of a `PatchEmbed` that leaves them out: a network may be built without memory."""
    place.register_buffer("pos_embed", place.pos_embed, persistent=True)


def as_image(tokens: Tensor, side: int) -> Tensor:
    """[B, side * side, width] -> [B, width, side, side]."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)
