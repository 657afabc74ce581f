"""Prompts: any text may be asked for. Those with an id are what teacher and students are trained on."""

import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import torch
from torch import Tensor

from msd_ray.conditions.clip_text import ClipText
from msd_ray.conditions.conditions import Condition, at_random
from msd_ray.conditions.embedders import Embedder, HashedNgrams
from msd_ray.conditions.picture_prompt import MODES, PicturePrompts
from msd_ray.conditions.picture_prompt import NAME as PICTURE
from msd_ray.conditions.prompt_file import PromptTable, read_prompts
from msd_ray.conditions.rules import any_of
from msd_ray.conditions.sd3_text import SD3Text
from msd_ray.conditions.sdxl_text import SDXLText
from msd_ray.conditions.t5_text import T5Text
from msd_ray.errors import UserError
from msd_ray.ranges import Width, within

LONGEST = 1000
"""Characters of a prompt."""


@dataclass(frozen=True)
class PromptOptions:
    """file: a Parquet file of prompts, in a column `text`, with their `weight` where there is such a column; the class
    of an image is the number of its prompt's row. Without it the labels of the data set are the prompts. embedder: what
    makes vectors of them. width: of these vectors, where the embedder leaves it open. encoder: of the other embedders,
    a directory of diffusers with its tokenizers and text encoders. shape: of a picture, [1 or 3, height, width], where
    prompts are pictures, as data URIs (embedder picture). only: words of which each prompt has one, whole and in upper
    or lower case; others are refused."""

    file: str = ""
    embedder: Literal["hashed-ngrams", "picture", "clip", "clip-tokens", "sdxl-tokens", "t5-tokens", "sd3-tokens"] = (
        "hashed-ngrams"
    )
    width: Annotated[int, within(ge=8, le=65_536)] = 256
    encoder: str = ""
    shape: tuple[Width, ...] = ()
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(word.strip() for word in self.only):
            raise ValueError("only: a word must not be empty")
        if bool(self.encoder) != (self.embedder in ENCODERS):
            raise ValueError(f"encoder is the directory of the text encoder of {', '.join(ENCODERS)}, and of no other")
        fits = len(self.shape) == 3 and self.shape[0] in MODES if self.embedder == PICTURE else not self.shape
        if not fits:
            raise ValueError("shape is that of a picture, [1 or 3, height, width], for the embedder picture alone")
        for name in ("file", "encoder"):
            if (path := getattr(self, name)) and "://" not in path:
                object.__setattr__(self, name, os.path.abspath(os.path.expanduser(path)))

    def conditions(self, labels: tuple[str, ...]) -> "Prompts":
        return Prompts(self._embedder, labels, self.file, self.only)

    @property
    def _embedder(self) -> Embedder:
        if self.embedder == PICTURE:
            return PicturePrompts(self.shape)
        return ENCODERS[self.embedder](self.encoder) if self.encoder else HashedNgrams(self.width)


ENCODERS: dict[str, Callable[[str], Embedder]] = {
    "clip": ClipText,
    "clip-tokens": lambda path: ClipText(path, of_tokens=True),
    "sdxl-tokens": SDXLText,
    "t5-tokens": T5Text,
    "sd3-tokens": SD3Text,
}
"""The embedders that are the text encoder in a directory. A new one is a class in a file of its own, a line here, and
its name in `PromptOptions`."""


@dataclass(frozen=True)
class Prompts:
    """embedder: makes vectors of them. data_labels: of the data set; none where only texts are asked for, as beside the
    weights of an ensemble. file: of prompts, empty where the labels are the prompts. only: words of which each prompt
    has one, none where any may be asked for."""

    embedder: Embedder
    data_labels: tuple[str, ...] = ()
    file: str = ""
    only: tuple[str, ...] = ()

    is_open = True
    called = ("prompt", "prompts")
    kept = ()

    @property
    def n(self) -> int:
        return len(self._table.texts)

    @property
    def width(self) -> int:
        return self.embedder.width

    @cached_property
    def fingerprint(self) -> str:
        return self._table.fingerprint + self.embedder.fingerprint

    def labels(self, ids: Sequence[int]) -> list[str]:
        """In their normal form. Raises UserError for one that is no prompt."""
        return [checked(text) for text in self._table.take(ids)]

    def id_of(self, asked: Condition) -> str:
        text = _text(asked)
        if self._lacks_words(text):
            raise UserError(f"only prompts with one of these words are known here: {', '.join(self.only)}")
        return text

    def _lacks_words(self, text: str) -> bool:
        return bool(self.only) and not any_of(self.only).search(text)

    def draw(self, among: Tensor, n: int, rng: torch.Generator) -> Tensor:
        """As likely as their weights say."""
        if self._table.weights is None:
            return at_random(among, n, rng)
        ends = self._ends(self._table.weights, among)
        drawn = torch.rand(n, dtype=ends.dtype, generator=rng, device=among.device) * ends[-1]
        return among[torch.searchsorted(ends, drawn, right=True).clamp(max=len(among) - 1)]

    def _ends(self, weights: Tensor, among: Tensor) -> Tensor:
        """The sums of the weights up to each of these ids. Kept for the last ones: a student always draws among its
        own, and they may be a million."""
        known = self._summed.get("last")
        if known is None or known[0] is not among:
            known = self._summed["last"] = among, weights.to(among.device)[among].cumsum(0)
        return known[1]

    @cached_property
    def _summed(self) -> dict[str, tuple[Tensor, Tensor]]:
        return {}

    def asked(self, ids: Tensor) -> list[Condition]:
        return list(self.labels(ids.tolist()))

    def encode(self, wanted: Tensor | Sequence[Condition]) -> Tensor:
        if isinstance(wanted, Tensor):
            return self.embedder.tokens(self.labels(wanted.tolist())).to(wanted.device)
        return self.embedder.tokens([_text(each) for each in wanted])

    def embed(self, encoded: Tensor) -> Tensor:
        return self.embedder.embed(encoded)

    def vectors(self, encoded: Tensor) -> Tensor:
        return self.embedder.vectors(encoded)

    def both(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        return self.embedder.both(encoded)

    @property
    def embedded_shape(self) -> tuple[int, ...]:
        return self.embedder.shape

    @property
    def unconditional(self) -> Tensor | None:
        return self.embedder.unconditional

    @cached_property
    def _table(self) -> PromptTable:
        table = self._read()
        for i, text in enumerate(table.take(range(len(table.texts)))) if self.only else ():
            if self._lacks_words(text):
                raise UserError(
                    f"conditions.options.only: prompt {i}, {text[:64]!r}, has none of the words "
                    f"{', '.join(self.only)}; leave such prompts, and their images, out of the data"
                )
        return table

    def _read(self) -> PromptTable:
        if not self.file:
            return PromptTable(self.data_labels)
        table = read_prompts(self.file)
        if len(table.texts) < len(self.data_labels):
            raise UserError(
                f"conditions.options.file: {self.file} has {len(table.texts)} prompts for {len(self.data_labels)} "
                f"classes of images; the class of an image is the number of its prompt's row"
            )
        return table


def _text(asked: Condition) -> str:
    if not isinstance(asked, str):
        raise UserError(f"ask with a prompt, a text, not with the number {asked}")
    return checked(asked)


def checked(text: str) -> str:
    """The prompt in Unicode's normal form NFC, with single spaces. Raises UserError for what is no prompt."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    if not text:
        raise UserError("a prompt must not be empty")
    if len(text) > LONGEST:
        raise UserError(f"a prompt has at most {LONGEST:,} characters, not {len(text):,}")
    if not text.isprintable() and (strange := [c for c in text if unicodedata.category(c) in ("Cc", "Cs")]):
        raise UserError(f"a prompt must not have control characters or halves of others, such as {strange[0]!r}")
    return text
