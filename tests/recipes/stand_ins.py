"""In place of the files that recipes need: images of the same shape and classes, and a teacher that is trained here."""

from pathlib import Path

import numpy as np

SHAPES = {"fashion": (1, 32, 10), "emoji": (3, 32, 8), "cifar10": (3, 32, 10), "imagenet64": (3, 64, 1000)}


def stand_ins(name: str, folder: Path) -> dict[str, object]:
    """Overrides, by path, of the recipe of that name; none where it needs no files."""
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


def as_arguments(overrides: dict[str, object]) -> list[str]:
    return [f"{path}={value}".replace("'", "") for path, value in overrides.items()]
