"""Tiny pipelines of PixArt's and of Stable Diffusion 3's kind, of random weights, kept as diffusers keeps them; and all
families of pipelines whose text encoders are not a single CLIP."""

import string
from pathlib import Path
from typing import Any

import torch

from .pipelines import arguments, write_sdxl, write_text_encoder, write_vae

PIXART: dict[str, Any] = {
    "sample_size": 8,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_layers": 2,
    "cross_attention_dim": 16,
    "caption_channels": 24,
}
SD3: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_layers": 2,
    "caption_projection_dim": 16,
    "joint_attention_dim": 64,
    "pooled_projection_dim": 64,
    "pos_embed_max_size": 6,
    "dual_attention_layers": (0,),
    "qk_norm": "rms_norm",
}


def full_of_weights(made: Any) -> Any:
    """The network itself, none of whose weights are zero."""
    for parameter in made.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return made.eval()


def write_t5(root: Path, width: int, number: str = "") -> Any:
    """A tokenizer of letters and a `T5EncoderModel`, in `tokenizer` and `text_encoder`; returns both."""
    import transformers

    pieces = ["<pad>", "</s>", "<unk>", "▁", *string.ascii_lowercase, *(f"▁{letter}" for letter in "acdhr")]
    tokenizer = transformers.T5Tokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0)
    tokenizer.save_pretrained(root / f"tokenizer{number}")
    config = transformers.T5Config(
        vocab_size=len(pieces), d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    torch.manual_seed(2)
    model = transformers.T5EncoderModel(config).eval()
    model.save_pretrained(root / f"text_encoder{number}")
    return tokenizer, model


def write_pixart(root: Path, scheduler: Any = None, name: str = "PixArtAlphaPipeline", **changes: Any) -> Any:
    """A whole pipeline of that class; returns it. changes: of the network."""
    import diffusers

    tokenizer, text_encoder = write_t5(root / "parts", 24)
    vae = write_vae(root / "parts" / "vae")
    torch.manual_seed(3)
    transformer = full_of_weights(diffusers.PixArtTransformer2DModel(**{**PIXART, **changes}))
    scheduler = scheduler or diffusers.DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02)
    pipeline = getattr(diffusers, name)(tokenizer, text_encoder, vae, transformer, scheduler)
    pipeline.save_pretrained(root)
    return pipeline


def write_sd3(root: Path, t5: bool = True, shift: float = 3.0, **changes: Any) -> Any:
    """A whole `StableDiffusion3Pipeline`; returns it. t5: whether it has a third text encoder. changes: of the
    network."""
    import diffusers
    import transformers

    clips: list[Any] = []
    for seed in (0, 1):
        tokenizer, plain = write_text_encoder(root / f"parts{seed}")
        plain.config.projection_dim = 32
        torch.manual_seed(seed)
        clips += [transformers.CLIPTextModelWithProjection(plain.config).eval(), tokenizer]
    tokenizer_3, text_encoder_3 = write_t5(root / "parts", 64) if t5 else (None, None)
    vae = write_vae(root / "parts" / "vae", scaling_factor=1.5, shift_factor=0.06)
    torch.manual_seed(4)
    transformer = full_of_weights(diffusers.SD3Transformer2DModel(**{**SD3, **changes}))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer, scheduler, vae, *clips, text_encoder_3=text_encoder_3, tokenizer_3=tokenizer_3
    )
    pipeline.save_pretrained(root)
    return pipeline


FAMILIES: dict[str, tuple[Any, str]] = {
    "pixart": (write_pixart, "t5-tokens"),
    "sd3": (write_sd3, "sd3-tokens"),
    "sdxl": (write_sdxl, "sdxl-tokens"),
}
"""How a pipeline is written, and the embedder of its prompts."""
TRANSFORMERS = ("pixart", "sd3")


def of_family(family: str, folder: Path, **changes: Any) -> list[str]:
    """`arguments` of a pipeline of that family."""
    options = {"embedder": FAMILIES[family][1], "encoder": str(folder)}
    return arguments(folder, **{"conditions": {"kind": "prompts", "options": options}, **changes})
