"""The text encoder of a Stable Diffusion pipeline as an embedder."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from msd_ray.conditions.encoder_files import EncoderFiles, each_alone


@dataclass(frozen=True)
class ClipText:
    """CLIP's pooled output, scaled to length 1. The tokens are numbers in its vocabulary, cut or padded to as many as
    it takes. path: a directory of diffusers. of_tokens: networks take the vector of each token instead, as those of
    Stable Diffusion do."""

    path: str
    of_tokens: bool = False

    @property
    def width(self) -> int:
        return self.files.width

    @property
    def fingerprint(self) -> str:
        return self.files.fingerprint

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.files.length, self.width) if self.of_tokens else (self.width,)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        return self.files.tokens(texts)

    def embed(self, tokens: Tensor) -> Tensor:
        return self._made(tokens, "last_hidden_state") if self.of_tokens else self.vectors(tokens)

    def vectors(self, tokens: Tensor) -> Tensor:
        return torch.nn.functional.normalize(self._made(tokens, "pooler_output"), dim=1)

    def both(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        if not self.of_tokens:
            return (vectors := self.vectors(tokens)), vectors
        made = self._made(tokens, "last_hidden_state", "pooler_output")
        return made[:, :-1], torch.nn.functional.normalize(made[:, -1], dim=1)

    @cached_property
    def unconditional(self) -> Tensor:
        return self.tokens([""])[0]

    @cached_property
    def files(self) -> EncoderFiles:
        return EncoderFiles(self.path, "CLIPTextModel")

    def _made(self, tokens: Tensor, *outputs: str) -> Tensor:
        """An output of the model for each of these [B, n]: [B, ...]; of several, their rows: [B, rows, width]."""
        _, model = self.files.open(tokens.device)
        rows = {"last_hidden_state": tokens.shape[1], "pooler_output": 1}

        def made(one: Tensor) -> Tensor:
            said = model(one)
            return torch.cat([getattr(said, output).reshape(1, -1, self.width) for output in outputs], dim=1)

        found = each_alone(tokens, made, (sum(rows[output] for output in outputs), self.width))
        return found[:, 0] if outputs == ("pooler_output",) else found
