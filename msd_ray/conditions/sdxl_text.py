"""The text encoders of an SDXL pipeline as an embedder."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from msd_ray.conditions.encoder_files import EncoderFiles, each_alone, taken_by
from msd_ray.errors import UserError

_SIZES = 6
"""Numbers of an image's size beside the vector of a whole text."""
_NO_TEXT = -1
"""In place of each token where there is no text."""


@dataclass(frozen=True)
class SDXLText:
    """The vector of each token, those of both CLIPs side by side; and before them a row with the vector of the whole
    text, the projected output of the second. The tokens are the numbers in both vocabularies, one after the other.
    Where the pipeline says so, all vectors of no text are zeros. path: a directory of diffusers."""

    path: str

    @cached_property
    def width(self) -> int:
        """Raises UserError where there is no such pipeline, or its text encoders do not give what its network takes."""
        width, of_size, both = taken_by(
            self.path,
            "unet",
            cross_attention_dim=1280,
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
        pooled, given = both - _SIZES * of_size, sum(clip.width for clip in self.clips)
        if (given, self.pooled) != (width, pooled) or pooled > width:
            raise UserError(
                f"conditions.options.encoder: the text encoders of {self.path} do not fit its unet, which takes "
                f"{width} numbers of each token and {pooled} of a whole text"
            )
        return width

    @property
    def pooled(self) -> int:
        """The width of a whole text's vector."""
        return self.clips[1].pooled

    @property
    def fingerprint(self) -> str:
        return "".join(clip.fingerprint for clip in self.clips) + ("" if self.zeros_without_text else "empty")

    @property
    def shape(self) -> tuple[int, ...]:
        return (1 + self.clips[0].length, self.width)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        return torch.cat([clip.tokens(texts, self.clips[0].length) for clip in self.clips], dim=1)

    def embed(self, tokens: Tensor) -> Tensor:
        return each_alone(tokens, self._made, self.shape)

    def vectors(self, tokens: Tensor) -> Tensor:
        return normalize(each_alone(tokens, lambda one: self._of_both(one)[0], (self.pooled,)), dim=1)

    def both(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        made = self.embed(tokens)
        return made, normalize(made[:, 0, : self.pooled], dim=1)

    @cached_property
    def unconditional(self) -> Tensor:
        """What its pipeline gives a network for no prompt: zeros, or the empty text."""
        empty = self.tokens([""])[0]
        return torch.full_like(empty, _NO_TEXT) if self.zeros_without_text else empty

    @cached_property
    def clips(self) -> tuple[EncoderFiles, EncoderFiles]:
        return EncoderFiles(self.path, "CLIPTextModel"), EncoderFiles(self.path, "CLIPTextModelWithProjection", "_2")

    @cached_property
    def zeros_without_text(self) -> bool:
        """`force_zeros_for_empty_prompt` of the pipeline, which is on where nothing is said."""
        try:
            said = json.loads((Path(self.path) / "model_index.json").read_text(encoding="utf-8"))
            return bool(said.get("force_zeros_for_empty_prompt", True))
        except (OSError, ValueError, AttributeError):
            return True

    def _made(self, tokens: Tensor) -> Tensor:
        """Of one text: [1, 1 + tokens, width]."""
        if bool((tokens == _NO_TEXT).all()):
            return torch.zeros(1, 1 + self.clips[0].length, self.width, device=tokens.device)
        whole, hidden = self._of_both(tokens)
        return torch.cat([pad(whole[:, None], (0, self.width - self.pooled)), hidden], dim=1)

    def _of_both(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Of the whole text, [1, pooled], and of each token, [1, tokens, width]."""
        first, second = (
            clip.open(tokens.device)[1](ids, output_hidden_states=True)
            for clip, ids in zip(self.clips, tokens.chunk(2, dim=1), strict=True)
        )
        return second.text_embeds, torch.cat([made.hidden_states[-2] for made in (first, second)], dim=-1)
