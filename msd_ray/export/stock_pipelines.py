"""The pipelines of diffusers that a student of prompts may become, by its kind of network. A new one is a function
that makes it of its parts, and a line in `STOCK`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from msd_ray.conditions.clip_text import ClipText
from msd_ray.conditions.sd3_text import SD3Text
from msd_ray.conditions.sdxl_text import SDXLText
from msd_ray.conditions.t5_text import T5Text
from msd_ray.extras import needed
from msd_ray.networks import DenoiserSpec

CPU = torch.device("cpu")


@dataclass(frozen=True)
class StockPipeline:
    """make: the pipeline of a network, a VAE, a scheduler, and the directory of the text encoder. call: what it must be
    called with for such a student, beside what its scheduler needs."""

    make: Callable[[Any, Any, Any, str], Any]
    call: Callable[[DenoiserSpec], Mapping[str, Any]] = lambda spec: {}


def _stable_diffusion(network: Any, vae: Any, scheduler: Any, encoder: str) -> Any:
    tokenizer, text_encoder = ClipText(encoder).files.open(CPU)
    unused = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return needed("diffusers", "hf").StableDiffusionPipeline(vae, text_encoder, tokenizer, network, scheduler, **unused)


def _sdxl(network: Any, vae: Any, scheduler: Any, encoder: str) -> Any:
    text = SDXLText(encoder)
    (tokenizer, first), (tokenizer_2, second) = (clip.open(CPU) for clip in text.clips)
    return needed("diffusers", "hf").StableDiffusionXLPipeline(
        vae, first, second, tokenizer, tokenizer_2, network, scheduler,
        force_zeros_for_empty_prompt=text.zeros_without_text, add_watermarker=False,
    )  # fmt: skip


def _sizes_of_sdxl(spec: DenoiserSpec) -> Mapping[str, Any]:
    network: Any = spec.network
    size = (network.pixels(spec.sample_shape),) * 2
    return {"original_size": size, "target_size": size}


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
    "diffusers-sdxl": StockPipeline(_sdxl, _sizes_of_sdxl),
    "diffusers-pixart": StockPipeline(_pixart, lambda spec: {"use_resolution_binning": False, "clean_caption": False}),
    "diffusers-sd3": StockPipeline(_stable_diffusion_3),
}
