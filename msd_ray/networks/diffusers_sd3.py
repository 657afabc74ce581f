"""`SD3Transformer2DModel` of diffusers (Stable Diffusion 3, arXiv 2403.03206) as a network of ours."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    patches_misfit,
    stock_arguments,
    width_of,
)
from msd_ray.networks.sizes import StudentSize
from msd_ray.ranges import Blocks, Width, within


@dataclass(frozen=True)
class DiffusersSD3Config:
    """The arguments of an `SD3Transformer2DModel`, as its config.json has them, without those that the data and the
    prompts' vectors decide. pooled_projection_dim: of the vector of a whole prompt."""

    kind: Literal["diffusers-sd3"] = "diffusers-sd3"
    num_attention_heads: Heads = 18
    attention_head_dim: HeadWidth = 64
    num_layers: Blocks = 18
    patch_size: Patch = 2
    pooled_projection_dim: Width = 2048
    pos_embed_max_size: Annotated[int, within(ge=1, le=512)] = 96
    dual_attention_layers: Annotated[tuple[Annotated[int, within(ge=0, le=255)], ...], within(max_length=256)] = ()
    qk_norm: Literal["rms_norm"] | None = None
    takes: ClassVar = "sd3-tokens"

    def build(self, sample_shape: tuple[int, ...], classes: int) -> "DiffusersSD3":
        return DiffusersSD3(self, sample_shape, classes)

    def cut(self, size: StudentSize) -> "DiffusersSD3Config":
        fewer = fewer_heads(self, size)
        return replace(
            fewer, dual_attention_layers=tuple(i for i in self.dual_attention_layers if i < fewer.num_layers)
        )

    def misfit(self, sample_shape: tuple[int, ...]) -> str:
        if problem := patches_misfit(self, sample_shape):
            return problem
        most = self.pos_embed_max_size * self.patch_size
        return f"network: {self.kind} takes samples of at most {most} x {most}" if sample_shape[1] > most else ""


def sd3_misfit(said: Mapping[str, Any], config: DiffusersSD3Config) -> str:
    """What else in its config.json is not read; empty for nothing."""
    if (projected := said.get("caption_projection_dim", 1152)) != width_of(config):
        return f"its caption_projection_dim is {projected!r}, and only that of its tokens, {width_of(config)}, is read"
    return ""


class DiffusersSD3(Network):
    """F(x [B, C, H, W], step [B], condition [B, 1 + tokens, classes]) -> [B, C, H, W]. The first entries of the first
    row are the vector of the whole prompt, the other rows those of its tokens."""

    def __init__(self, config: DiffusersSD3Config, sample_shape: tuple[int, ...], classes: int) -> None:
        """classes: the width of a token's vector. Raises ValueError where that of the whole prompt is wider, or the
        samples are larger than its positions."""
        super().__init__()
        if classes < config.pooled_projection_dim:
            raise ValueError(
                f"a network of kind {config.kind} takes prompts whose tokens have at least "
                f"{config.pooled_projection_dim} entries, not {classes}"
            )
        if problem := config.misfit(sample_shape):
            raise ValueError(problem)
        self.pooled = config.pooled_projection_dim
        self.model = needed("diffusers", "hf").SD3Transformer2DModel(
            joint_attention_dim=classes,
            caption_projection_dim=width_of(config),
            **stock_arguments(config, sample_shape),
        )
        self.side, self.halfway = sample_shape[-1] // config.patch_size, (config.num_layers + 1) // 2
        self.feature_shapes = [(width_of(config), self.side, self.side)]

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> Tensor:
        whole, tokens = condition[:, 0, : self.pooled], condition[:, 1:]
        out: Tensor = self.model(x, tokens, whole, c_noise, return_dict=False)[0]
        return out

    def encode(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> list[Tensor]:
        """The tokens of the sample halfway, as an image: [B, *feature_shapes[0]]."""
        model, h = self.model, self.model.pos_embed(x)
        seen = model.time_text_embed(c_noise, condition[:, 0, : self.pooled])
        text = model.context_embedder(condition[:, 1:])
        for block in model.transformer_blocks[: self.halfway]:
            text, h = block(hidden_states=h, encoder_hidden_states=text, temb=seen)
        return [as_image(h, self.side)]
