"""In place of the files that recipes need: images of the same shape and classes, and a teacher that is trained here; of
Stable Diffusion a tiny pipeline, and smaller latents under prompts."""

from pathlib import Path

import numpy as np

from ..pipelines import VAE, write_stable_diffusion

SIDE = 16
"""Of latents: attention between 64 x 64 of them takes a minute."""
SHAPES = {"fashion": (1, 32, 10), "emoji": (3, 32, 8), "cifar10": (3, 32, 10), "imagenet64": (3, 64, 1000)}


def stand_ins(name: str, folder: Path) -> dict[str, object]:
    """Overrides, by path, of the recipe of that name; none where it needs no files."""
    if name.startswith("sd15"):
        return _of_stable_diffusion(folder)
    found = [shape for stem, shape in SHAPES.items() if name.split("-")[0] == stem]
    if not found:
        return {}
    channels, side, classes = found[0]
    folder.mkdir(exist_ok=True)
    labels = np.arange(2 * classes) % classes
    np.save(folder / "labels.npy", labels)
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), channels, side, side), dtype=np.uint8)
    np.save(folder / "images.npy", pixels)
    data = {"name": "arrays", "folder": str(folder)}
    return {"data": data, "teacher": {}, "evaluation.features": "efficientnet-lite0-32", "evaluation.also": []}


def _of_stable_diffusion(folder: Path) -> dict[str, object]:
    folder.mkdir(exist_ok=True)
    four_levels = {key: VAE[key][:1] * 4 for key in ("block_out_channels", "down_block_types", "up_block_types")}
    write_stable_diffusion(folder / "sd", vae=four_levels, sample_size=SIDE)
    prompts = ["red cat", *(7 * letter for letter in "abcdefghijklmno")]  # some in each quadrant
    (folder / "labels.txt").write_text("\n".join(prompts))
    np.save(folder / "labels.npy", np.arange(len(prompts)))
    np.save(
        folder / "images.npy", np.random.default_rng(0).integers(0, 256, (len(prompts), 4, SIDE, SIDE), dtype=np.uint8)
    )
    return {
        "data": {"name": "arrays", "folder": str(folder)},
        "teacher": {"from": str(folder / "sd"), "guidance": 1.75},
        "conditions": {"kind": "prompts", "options": {"embedder": "clip-tokens", "encoder": str(folder / "sd")}},
        "codec": {"kind": "vae", "options": {"path": str(folder / "sd")}},
        "evaluation.features": "efficientnet-lite0-32",
    }


def as_arguments(overrides: dict[str, object]) -> list[str]:
    return [f"{path}={value}".replace("'", "") for path, value in overrides.items()]
