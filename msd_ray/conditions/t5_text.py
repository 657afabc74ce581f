"""The text encoder of a PixArt pipeline as an embedder."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from msd_ray.conditions.encoder_files import EncoderFiles, each_alone

_LENGTHS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}
"""Tokens of a prompt."""


@dataclass(frozen=True)
class T5Text:
    """The vector of each token, the last hidden state of T5's encoder, with a last entry that is 1, and 0 where the
    token only fills up. The tokens are those of the text in lower case. path: a directory of diffusers."""

    path: str

    @property
    def width(self) -> int:
        return self.files.width

    @property
    def fingerprint(self) -> str:
        return self.files.fingerprint

    @property
    def shape(self) -> tuple[int, ...]:
        return (_LENGTHS[self.pipeline], self.width + 1)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        return self.files.tokens([text.lower().strip() for text in texts], _LENGTHS[self.pipeline])

    def embed(self, tokens: Tensor) -> Tensor:
        return each_alone(tokens, self._made, (*tokens.shape[1:], self.width + 1))

    def vectors(self, tokens: Tensor) -> Tensor:
        """The mean of the tokens' vectors, of length 1."""
        return self.both(tokens)[1]

    def both(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        made = self.embed(tokens)
        return made, torch.nn.functional.normalize((made[..., :-1] * made[..., -1:]).sum(dim=1), dim=1)

    @cached_property
    def unconditional(self) -> Tensor:
        return self.tokens([""])[0]

    @cached_property
    def files(self) -> EncoderFiles:
        return EncoderFiles(self.path, "T5EncoderModel")

    @cached_property
    def pipeline(self) -> str:
        """The class of the pipeline in the directory; PixArt-alpha's where none is named."""
        try:
            name = str(json.loads((Path(self.path) / "model_index.json").read_text(encoding="utf-8"))["_class_name"])
        except (OSError, ValueError, KeyError, TypeError):
            name = ""
        return name if name in _LENGTHS else "PixArtAlphaPipeline"

    def _made(self, tokens: Tensor) -> Tensor:
        tokenizer, model = self.files.open(tokens.device)
        ends = (tokens == tokenizer.eos_token_id).long()
        own = ends.flip(1).cumsum(1).flip(1).clamp(max=1)  # a text's tokens end with that of its end
        hidden: Tensor = model(tokens, attention_mask=own).last_hidden_state
        return torch.cat([hidden, own[..., None].to(hidden)], dim=-1)
