"""The pipelines of diffusers that a student of prompts may become, by its kind of network. A new one is a function
that makes it of its parts, and a line in `STOCK`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from msd_ray.conditions.clip_text import ClipText
from msd_ray.conditions.sd3_text import SD3Text
from msd_ray.conditions.t5_text import T5Text
from msd_ray.extras import needed

CPU = torch.device("cpu")


@dataclass(frozen=True)
class StockPipeline:
    """make: the pipeline of a network, a VAE, a scheduler, and the directory of the text encoder. call: what it must be
    called with, beside what its scheduler needs."""

    make: Callable[[Any, Any, Any, str], Any]
    call: Mapping[str, Any] = field(default_factory=dict)


def _stable_diffusion(network: Any, vae: Any, scheduler: Any, encoder: str) -> Any:
    tokenizer, text_encoder = ClipText(encoder).files.open(CPU)
    unused = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return needed("diffusers", "hf").StableDiffusionPipeline(vae, text_encoder, tokenizer, network, scheduler, **unused)


def _pixart(network: Any, vae: Any, scheduler: Any, encoder: str) -> Any:
    text = T5Text(encoder)
    return getattr(needed("diffusers", "hf"), text.pipeline)(*text.files.open(CPU), vae, network, scheduler)


def _stable_diffusion_3(network: Any, vae: Any, scheduler: Any, encoder: str) -> Any:
    text = SD3Text(encoder)
    (tokenizer, first), (tokenizer_2, second) = (clip.open(CPU) for clip in text.clips)
    tokenizer_3, third = text.t5.open(CPU) if text.t5 else (None, None)
    vae.register_to_config(shift_factor=vae.config.shift_factor or 0.0)  # which the pipeline adds
    return needed("diffusers", "hf").StableDiffusion3Pipeline(
        network, scheduler, vae, first, tokenizer, second, tokenizer_2, third, tokenizer_3
    )


STOCK = {
    "diffusers-unet-condition": StockPipeline(_stable_diffusion),
    "diffusers-pixart": StockPipeline(_pixart, {"use_resolution_binning": False, "clean_caption": False}),
    "diffusers-sd3": StockPipeline(_stable_diffusion_3),
}
