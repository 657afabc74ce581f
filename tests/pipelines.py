"""Tiny parts of Stable Diffusion, of random weights, kept as diffusers keeps them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from msd_ray.teachers.inspection import inspect

VAE: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": 16,
}


def write_vae(folder: Path, **changes: Any) -> Any:
    """An `AutoencoderKL` in that folder; returns it."""
    import diffusers

    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(**{**VAE, **changes}).eval()
    vae.save_pretrained(folder)
    return vae


LETTERS = [chr(code) for code in range(33, 127)]
WORDS = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
TEXT: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": len(WORDS) - 2,
    "eos_token_id": len(WORDS) - 1,
}
"""Of a text encoder of CLIP's that knows letters alone."""


def write_tokenizer(folder: Path, tokens: int, pad: str = "<|endoftext|>") -> Any:
    """CLIP's, of letters; returns it. pad: the word that fills up."""
    import transformers

    with TemporaryDirectory() as apart:
        vocab, merges = Path(apart) / "vocab.json", Path(apart) / "merges.txt"
        vocab.write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
        merges.write_text("#version: 0.2\n")
        files = {"vocab": str(vocab), "merges": str(merges)}
        tokenizer = transformers.CLIPTokenizer(**files, model_max_length=tokens, pad_token=pad)
    tokenizer.save_pretrained(folder)
    return tokenizer


def write_text_encoder(root: Path, tokens: int = 16, width: int = 32, pad: str = "<|endoftext|>") -> Any:
    """A tokenizer of letters and a `CLIPTextModel`, in `tokenizer` and `text_encoder`; returns both. pad: the word that
    fills up."""
    import transformers

    tokenizer = write_tokenizer(root / "tokenizer", tokens, pad)
    config = transformers.CLIPTextConfig(**TEXT, hidden_size=width, max_position_embeddings=tokens)
    torch.manual_seed(0)
    model = transformers.CLIPTextModel(config).eval()
    model.save_pretrained(root / "text_encoder")
    return tokenizer, model


def write_clip(root: Path, seed: int = 0) -> None:
    """A whole `CLIPModel` of 8 numbers for a picture or a text, with its processor and tokenizer."""
    import transformers

    write_tokenizer(root, 16)
    seen = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.CLIPConfig(
        text_config={**TEXT, "hidden_size": 32, "max_position_embeddings": 16, "projection_dim": 8},
        vision_config={**seen, "image_size": 16, "patch_size": 8, "projection_dim": 8},
        projection_dim=8,
    )
    torch.manual_seed(seed)
    transformers.CLIPModel(config).save_pretrained(root)
    transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    ).save_pretrained(root)


UNET: dict[str, Any] = {
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
SCHEDULER: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
}
"""Of Stable Diffusion 1.x and 2.x."""


def write_stable_diffusion(
    root: Path, prediction: str = "epsilon", vae: Mapping[str, Any] | None = None, **changes: Any
) -> Any:
    """A whole `StableDiffusionPipeline`; returns it. vae: changes of it; changes: of the network."""
    import diffusers

    tokenizer, text_encoder = write_text_encoder(root / "parts")
    of_latents = write_vae(root / "parts" / "vae", **(vae or {}))
    torch.manual_seed(1)
    unet = diffusers.UNet2DConditionModel(**{**UNET, **changes}).eval()
    scheduler = diffusers.PNDMScheduler(prediction_type=prediction, **SCHEDULER)
    unused = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = diffusers.StableDiffusionPipeline(of_latents, text_encoder, tokenizer, unet, scheduler, **unused)
    pipeline.save_pretrained(root)
    return pipeline


SDXL: dict[str, Any] = {
    **UNET,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
    "transformer_layers_per_block": (1, 2),
    "cross_attention_dim": 80,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 88,
    "upcast_attention": None,
}


def write_sdxl(
    root: Path, prediction: str = "epsilon", zeros: bool = True, vae: Mapping[str, Any] | None = None, **changes: Any
) -> Any:
    """A whole `StableDiffusionXLPipeline`; returns it. zeros: of the vectors of no prompt. vae: changes of it; changes:
    of the network."""
    import diffusers
    import transformers

    tokenizer, text_encoder = write_text_encoder(root / "parts")
    tokenizer_2, plain = write_text_encoder(root / "parts2", width=48, pad="!")
    plain.config.projection_dim = 40
    torch.manual_seed(2)
    text_encoder_2 = transformers.CLIPTextModelWithProjection(plain.config).eval()
    of_latents = write_vae(root / "parts" / "vae", scaling_factor=0.13025, force_upcast=True, **(vae or {}))
    torch.manual_seed(1)
    unet = diffusers.UNet2DConditionModel(**{**SDXL, **changes}).eval()
    known = {key: SCHEDULER[key] for key in ("beta_schedule", "beta_start", "beta_end", "steps_offset")}
    scheduler = diffusers.EulerDiscreteScheduler(prediction_type=prediction, timestep_spacing="leading", **known)
    pipeline = diffusers.StableDiffusionXLPipeline(
        of_latents, text_encoder, text_encoder_2, tokenizer, tokenizer_2, unet, scheduler,
        force_zeros_for_empty_prompt=zeros, add_watermarker=False,
    )  # fmt: skip
    pipeline.save_pretrained(root)
    return pipeline


PROMPTS = ("a red car", "a cat with a hat", "???", "dog")


def arguments(pipeline: Path, prompts: Sequence[str] = PROMPTS, **changes: Any) -> list[str]:
    """Overrides of the recipe digits: a guided teacher from that directory, and two latents under each prompt."""
    folder, n = pipeline / "data", 2 * len(prompts)
    folder.mkdir(exist_ok=True)
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (n, 4, 8, 8), dtype=np.uint8))
    np.save(folder / "labels.npy", np.arange(n) % len(prompts))
    (folder / "labels.txt").write_text("\n".join(prompts))
    said = inspect(str(pipeline), {})["recipe"]
    overrides = {
        "data": {"name": "arrays", "folder": str(folder)},
        "teacher": {"from": str(pipeline), "guidance": 7.5},
        "conditions": {"kind": "prompts", "options": {"embedder": "clip-tokens", "encoder": str(pipeline)}},
        "codec": {"kind": "vae", "options": {"path": str(pipeline)}},
        "partition": {"k": 1, "kind": "sequential"},
        "network": said["network"],
        "noise": said["noise"],
        **changes,
    }
    return [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
