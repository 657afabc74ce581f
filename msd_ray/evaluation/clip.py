"""Features of CLIP, in which pictures and the prompts that they were asked for can be compared."""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msd_ray.codecs import to_rgb
from msd_ray.errors import UserError, one_line
from msd_ray.evaluation.feature_distances import Features
from msd_ray.extras import needed

NAME = "clip"
TEXTS_AT_A_TIME = 256
_AT = "evaluation.clip"
_FILES = ("config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json")


class Clip:
    """The projected vectors of pictures, as the model's own processor resizes and crops them. Knows no classes."""

    name = NAME

    def __init__(self, model: Any, processor: Any, tokenizer: Any, device: torch.device | str = "cpu") -> None:
        self._model, self._processor, self._tokenizer, self._device = model, processor, tokenizer, device

    @torch.no_grad()
    def features(self, x: Tensor) -> Features:
        seen = self._processor(images=list(to_rgb(x)), return_tensors="pt").pixel_values.to(self._device)
        return _numbers(self._model.get_image_features(pixel_values=seen).pooler_output)

    def classify(self, x: Tensor) -> Tensor | None:
        return None

    @torch.no_grad()
    def of_texts(self, texts: Sequence[str]) -> Features:
        """The projected vectors of prompts, [N, d]; what is longer than the model takes is cut off."""
        most, made = self._model.config.text_config.max_position_embeddings, list[Features]()
        for i in range(0, len(texts), TEXTS_AT_A_TIME):
            some = list(texts[i : i + TEXTS_AT_A_TIME])
            tokens = self._tokenizer(some, padding=True, truncation=True, max_length=most, return_tensors="pt")
            made.append(_numbers(self._model.get_text_features(**tokens.to(self._device)).pooler_output))
        return np.concatenate(made)


def clip_score(pictures: Features, texts: Features) -> float:
    """CLIP score, arXiv 2104.08718 equation 1 with the factor 100 of most tables: the mean of 100 max(cos, 0).

    pictures, texts: the vectors of a picture and of its prompt in each row, [N, d]. Raises ValueError without rows.
    """
    if not len(pictures):
        raise ValueError("the CLIP score needs samples")
    cosines = (pictures * texts).sum(1) / (np.linalg.norm(pictures, axis=1) * np.linalg.norm(texts, axis=1))
    return float(100 * cosines.clip(0).mean())


def width(path: str) -> int:
    """How many numbers its features have. Raises UserError as `load`."""
    return int(_config(path)["projection_dim"])


def fingerprint(path: str) -> str:
    """Of what the features follow from. Raises UserError as `load`."""
    _config(path)
    hashed = hashlib.sha256()
    for name in _FILES:
        with (Path(path) / name).open("rb") as file:
            hashed.update(hashlib.file_digest(file, "sha256").digest())
    return hashed.hexdigest()[:16]


@cache
def load(path: str) -> Clip:
    """The model in a directory of transformers, one for all evaluations of this process. Executes nothing that lies
    there. Raises UserError where the directory is not named, has no `CLIPModel`, or cannot be read."""
    transformers = needed("transformers", "hf")
    _config(path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model, info = transformers.CLIPModel.from_pretrained(
            path, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        if info["missing_keys"]:
            raise ValueError(f"its weights lack {min(info['missing_keys'])}")
        processor = transformers.CLIPImageProcessorPil.from_pretrained(path, local_files_only=True)
        tokenizer = transformers.CLIPTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:  # transformers raises whatever it likes
        raise UserError(f"{_AT}: {path} cannot be read: {one_line(error)}") from None
    return Clip(model.float().eval().requires_grad_(False).to(device), processor, tokenizer, device)


def _config(path: str) -> dict[str, Any]:
    if not path:
        raise UserError(f"{_AT}: name the directory of a CLIPModel of transformers, for the features clip")
    if missing := [name for name in _FILES if not (Path(path) / name).is_file()]:
        raise UserError(f"{_AT}: {path} has no {missing[0]}; save model, processor and tokenizer with save_pretrained")
    try:
        config: dict[str, Any] = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
        kinds = list(config["architectures"])
        int(config["projection_dim"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{_AT}: {path}/config.json is not a CLIPModel's: {one_line(error)}") from None
    if kinds != ["CLIPModel"]:
        raise UserError(f"{_AT}: {path} has no CLIPModel, but {', '.join(map(str, kinds))}")
    return config


def _numbers(x: Tensor) -> Features:
    made: Features = x.cpu().double().numpy()
    return made
