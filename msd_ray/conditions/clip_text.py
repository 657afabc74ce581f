"""The text encoder of a Stable Diffusion pipeline as an embedder."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msd_ray.errors import UserError, one_line
from msd_ray.extras import needed

WIDEST = 8192
_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class ClipText:
    """CLIP's pooled output, scaled to length 1. The tokens are numbers in its vocabulary, cut or padded to as many as
    it takes. path: a directory of diffusers. of_tokens: networks take the vector of each token instead, as those of
    Stable Diffusion do. Each prompt is embedded by itself: in a batch its last bits would depend on the others."""

    path: str
    of_tokens: bool = False

    @cached_property
    def width(self) -> int:
        """Raises UserError where there is no such encoder."""
        try:
            config = json.loads((Path(self.path) / "text_encoder" / "config.json").read_text(encoding="utf-8"))
            names, width = list(config["architectures"]), int(config["hidden_size"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"conditions.options.encoder: {self.path} has no text_encoder: {one_line(error)}") from None
        if names != ["CLIPTextModel"] or not 0 < width <= WIDEST:
            raise UserError(f"conditions.options.encoder: {self.path} has no CLIPTextModel, but {', '.join(names)}")
        return width

    @cached_property
    def fingerprint(self) -> str:
        with open(self._folder / _WEIGHTS, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()

    def tokens(self, texts: Sequence[str]) -> Tensor:
        tokenizer, _ = opened(self._folder.parent, torch.device("cpu"))
        if not texts:
            return torch.zeros(0, tokenizer.model_max_length, dtype=torch.long)
        made = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
        ids: Tensor = made.input_ids
        return ids

    def embed(self, tokens: Tensor) -> Tensor:
        return self._made(tokens, "last_hidden_state") if self.of_tokens else self.vectors(tokens)

    def vectors(self, tokens: Tensor) -> Tensor:
        return torch.nn.functional.normalize(self._made(tokens, "pooler_output"), dim=1)

    @cached_property
    def unconditional(self) -> Tensor:
        return self.tokens([""])[0]

    @torch.no_grad()
    def _made(self, tokens: Tensor, what: str) -> Tensor:
        """An output of the model for each of these [B, n], equal ones computed once: [B, ...]."""
        _, model = opened(self._folder.parent, tokens.device)
        if not len(tokens):
            return torch.zeros(0, *(tokens.shape[1:] if what == "last_hidden_state" else ()), self.width)
        different, of_each = torch.unique(tokens, dim=0, return_inverse=True)
        return torch.cat([getattr(model(one[None]), what) for one in different])[of_each]

    @property
    def _folder(self) -> Path:
        """Of the encoder, which is one that may be opened."""
        folder = Path(self.path) / "text_encoder"
        if self.width and not (folder / _WEIGHTS).is_file():
            raise UserError(f"conditions.options.encoder: {folder} has no {_WEIGHTS}")
        return folder


@lru_cache(maxsize=2)
def opened(root: Path, device: torch.device) -> tuple[Any, Any]:
    """Tokenizer and model in a directory, once in a process. Executes nothing that lies there. Raises UserError where
    they cannot be read."""
    transformers = needed("transformers", "hf")
    try:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(root / "tokenizer", local_files_only=True)
        model = transformers.CLIPTextModel.from_pretrained(
            root / "text_encoder", local_files_only=True, use_safetensors=True
        )
    except Exception as error:  # transformers raises whatever it likes
        raise UserError(f"conditions.options.encoder: {root} cannot be read: {one_line(error)}") from None
    return tokenizer, model.float().eval().requires_grad_(False).to(device)
