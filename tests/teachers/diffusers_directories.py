"""Tiny networks of diffusers, kept as it keeps them."""

import json
from pathlib import Path
from typing import Any

import torch

UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
    "num_class_embeds": 2,
}
DIT: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 6,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_layers": 2,
    "patch_size": 2,
    "num_embeds_ada_norm": 2,
}


def network(name: str, **changes: Any) -> Any:
    """A `UNet2DModel` or a `DiTTransformer2DModel` of random weights, none of them zero."""
    import diffusers

    torch.manual_seed(0)
    made = getattr(diffusers, name)(**{**(UNET if name == "UNet2DModel" else DIT), **changes}).eval()
    for parameter in made.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return made


def write(folder: Path, made: Any, scheduler: Any = None) -> Path:
    """A pipeline's directory, without what no teacher needs."""
    part = "unet" if type(made).__name__ == "UNet2DModel" else "transformer"
    made.save_pretrained(folder / part)
    index = {"_class_name": "Pipeline", part: ["diffusers", type(made).__name__]}
    if scheduler is not None:
        scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def change(file: Path, **values: Any) -> None:
    """Of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
