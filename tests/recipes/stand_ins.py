"""In place of the files that recipes need: images of the same shape and classes, and a teacher that is trained here; of
Stable Diffusion a tiny pipeline, and smaller latents under prompts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..pipelines import SDXL, VAE, write_sdxl, write_stable_diffusion

SIDE = 16
"""Of latents: attention between 64 x 64 of them takes a minute."""
FOUR_LEVELS = {key: VAE[key][:1] * 4 for key in ("block_out_channels", "down_block_types", "up_block_types")}
"""Of a VAE, whose latents are an eighth as large as its images."""
PROMPTS = ("red cat", *(7 * letter for letter in "abcdefghijklmno"))
"""Some in each quadrant."""
DOGS = ["dog", "dogs", "puppy"]
SHAPES = {"fashion": (1, 32, 10), "emoji": (3, 32, 8), "cifar10": (3, 32, 10), "imagenet64": (3, 64, 1000)}


def stand_ins(name: str, folder: Path) -> dict[str, object]:
    """Overrides, by path, of the recipe of that name; none where it needs no files."""
    if name.startswith("sd15"):
        return _of_stable_diffusion(folder, name.endswith("dog"))
    if name.startswith("sdxl"):
        return _of_sdxl(folder)
    found = [shape for stem, shape in SHAPES.items() if name.split("-")[0] == stem]
    if not found:
        return {}
    channels, side, classes = found[0]
    folder.mkdir(exist_ok=True)
    labels = np.arange(2 * classes) % classes
    np.save(folder / "labels.npy", labels)
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), channels, side, side), dtype=np.uint8)
    np.save(folder / "images.npy", pixels)
    data: dict[str, object] = {"name": "arrays", "folder": str(folder)}
    if name.endswith("super-resolution"):
        data = {"name": "super-resolution", "options": {"of": data}}
    return {"data": data, "teacher": {}, "evaluation.features": "efficientnet-lite0-32", "evaluation.also": []}


def _of_stable_diffusion(folder: Path, dogs: bool) -> dict[str, object]:
    write_stable_diffusion(folder / "sd", vae=FOUR_LEVELS, sample_size=SIDE)
    prompts, only = (DOGS, {"only": DOGS}) if dogs else (PROMPTS, {})
    known = _of_prompts(folder, "clip-tokens", prompts, **only)
    return {**known, "teacher": {"from": str(folder / "sd"), "guidance": 1.75}}


def _of_sdxl(folder: Path) -> dict[str, object]:
    """With a teacher that is trained here, as its adapters need one of the recipe's network; and clusters, since these
    encoders leave a quadrant empty."""
    write_sdxl(folder / "sd", vae=FOUR_LEVELS)
    taken = ("addition_time_embed_dim", "projection_class_embeddings_input_dim")
    known = {**_of_prompts(folder, "sdxl-tokens"), "teacher": {}, "partition": {"k": 4, "kind": "kmeans"}}
    return {**known, **{f"network.{key}": SDXL[key] for key in taken}}


def _of_prompts(folder: Path, embedder: str, prompts: Sequence[str] = PROMPTS, **options: object) -> dict[str, object]:
    (folder / "labels.txt").write_text("\n".join(prompts))
    np.save(folder / "labels.npy", np.arange(len(prompts)))
    np.save(
        folder / "images.npy", np.random.default_rng(0).integers(0, 256, (len(prompts), 4, SIDE, SIDE), dtype=np.uint8)
    )
    return {
        "data": {"name": "arrays", "folder": str(folder)},
        "conditions": {"kind": "prompts", "options": {"embedder": embedder, "encoder": str(folder / "sd"), **options}},
        "codec": {"kind": "vae", "options": {"path": str(folder / "sd")}},
        "evaluation.features": "efficientnet-lite0-32",
    }


def as_arguments(overrides: dict[str, object]) -> list[str]:
    return [f"{path}={value}".replace("'", "") for path, value in overrides.items()]
