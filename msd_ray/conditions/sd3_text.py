"""The text encoders of a Stable Diffusion 3 pipeline as an embedder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from msd_ray.conditions.encoder_files import EncoderFiles, each_alone, taken_by
from msd_ray.errors import UserError

_OF_T5 = 256
"""Tokens of a prompt that T5 sees."""


@dataclass(frozen=True)
class SD3Text:
    """The vector of each token, first those of both CLIPs side by side, then those of T5, or zeros where the pipeline
    has none; and before them a row with the vector of the whole text, the projected outputs of both CLIPs. The tokens
    are the numbers in all three vocabularies, one after the other. path: a directory of diffusers."""

    path: str

    @cached_property
    def width(self) -> int:
        """Raises UserError where there is no such pipeline, or its text encoders do not give what its transformer
        takes."""
        width, pooled = taken_by(self.path, "transformer", joint_attention_dim=4096, pooled_projection_dim=2048)
        given = self.t5.width if self.t5 else width
        if (given, self.pooled) != (width, pooled) or max(pooled, sum(clip.width for clip in self.clips)) > width:
            raise UserError(
                f"conditions.options.encoder: the text encoders of {self.path} do not fit its transformer, which takes "
                f"{width} numbers of each token and {pooled} of a whole text"
            )
        return width

    @property
    def pooled(self) -> int:
        """The width of a whole text's vector."""
        return sum(clip.pooled for clip in self.clips)

    @property
    def fingerprint(self) -> str:
        return "".join(files.fingerprint for files in (*self.clips, *([self.t5] if self.t5 else [])))

    @property
    def shape(self) -> tuple[int, ...]:
        return (1 + self.clips[0].length + _OF_T5, self.width)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        ids = [clip.tokens(texts, self.clips[0].length) for clip in self.clips]
        return torch.cat([*ids, self.t5.tokens(texts, _OF_T5)] if self.t5 else ids, dim=1)

    def embed(self, tokens: Tensor) -> Tensor:
        return each_alone(tokens, self._made, self.shape)

    def vectors(self, tokens: Tensor) -> Tensor:
        return normalize(each_alone(tokens, lambda one: self._of_both(one)[0], (self.pooled,)), dim=1)

    def both(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        made = self.embed(tokens)
        return made, normalize(made[:, 0, : self.pooled], dim=1)

    @cached_property
    def unconditional(self) -> Tensor:
        return self.tokens([""])[0]

    @cached_property
    def clips(self) -> tuple[EncoderFiles, EncoderFiles]:
        first = EncoderFiles(self.path, "CLIPTextModelWithProjection")
        return first, replace(first, number="_2")

    @cached_property
    def t5(self) -> EncoderFiles | None:
        files = EncoderFiles(self.path, "T5EncoderModel", "_3")
        return files if files.encoder.is_dir() else None

    def _made(self, tokens: Tensor) -> Tensor:
        """Of one text: [1, 1 + tokens, width]."""
        whole, hidden = self._of_both(tokens)
        if self.t5:
            last = self.t5.open(tokens.device)[1](tokens[:, 2 * self.clips[0].length :]).last_hidden_state
        else:
            last = hidden.new_zeros(1, _OF_T5, self.width)
        rows = [pad(part, (0, self.width - part.shape[-1])) for part in (whole[:, None], hidden)]
        return torch.cat([*rows, last], dim=1)

    def _of_both(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Of the whole text, [1, pooled], and of each token: of the CLIPs alone."""
        made = [
            clip.open(tokens.device)[1](ids, output_hidden_states=True)
            for clip, ids in zip(self.clips, torch.split(tokens, self.clips[0].length, dim=1), strict=False)
        ]
        hidden = torch.cat([each.hidden_states[-2] for each in made], dim=-1)
        return torch.cat([each.text_embeds for each in made], dim=-1), hidden
