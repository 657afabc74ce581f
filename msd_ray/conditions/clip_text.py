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

    def tokens(self, texts: Sequence[str]) -> Tensor:
        return self.files.tokens(texts)

    def embed(self, tokens: Tensor) -> Tensor:
        return self._made(tokens, "last_hidden_state") if self.of_tokens else self.vectors(tokens)

    def vectors(self, tokens: Tensor) -> Tensor:
        return torch.nn.functional.normalize(self._made(tokens, "pooler_output"), dim=1)

    @cached_property
    def unconditional(self) -> Tensor:
        return self.tokens([""])[0]

    @cached_property
    def files(self) -> EncoderFiles:
        return EncoderFiles(self.path, "CLIPTextModel")

    def _made(self, tokens: Tensor, what: str) -> Tensor:
        """An output of the model for each of these [B, n]: [B, ...]."""
        _, model = self.files.open(tokens.device)
        shape = (*tokens.shape[1:], self.width) if what == "last_hidden_state" else (self.width,)
        return each_alone(tokens, lambda one: getattr(model(one), what), shape)
