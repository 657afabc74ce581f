"""Pictures as prompts: a text that holds a small picture whole, `data:image/png;base64,...` (RFC 2397)."""

import base64
import binascii
import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from msd_ray.errors import UserError

NAME, BEGINS = "picture", "data:image/png;base64,"
MODES = {1: "L", 3: "RGB"}
"""Pillow's, by the number of channels."""


@dataclass(frozen=True)
class PicturePrompts:
    """An `Embedder` of such texts. shape: of a picture, [C, H, W], grey or RGB. Its tokens, and what networks take, are
    the picture in [-1, 1]; partitions compare its pixels."""

    shape: tuple[int, ...]
    fingerprint = ""
    unconditional = None

    @property
    def width(self) -> int:
        return prod(self.shape)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """[B, C, H, W]. Raises UserError for a text that holds no picture of this shape."""
        return torch.stack([self._picture(text) for text in texts]) if texts else torch.zeros(0, *self.shape)

    def embed(self, tokens: Tensor) -> Tensor:
        return tokens

    def vectors(self, tokens: Tensor) -> Tensor:
        pixels = tokens.flatten(1).double()
        return (pixels / pixels.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)).float()

    def both(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.embed(tokens), self.vectors(tokens)

    def _picture(self, text: str) -> Tensor:
        channels, height, width = self.shape
        if not text.startswith(BEGINS):
            raise UserError(f"here a prompt is a picture, {BEGINS}..., not {text[:40]!r}")
        try:
            content = base64.b64decode(text.removeprefix(BEGINS), validate=True)
            image = Image.open(io.BytesIO(content), formats=["PNG"])
            if image.size != (width, height):  # before it is decoded, however large it says that it is
                raise UserError(f"the picture must have {width} x {height} pixels, not {image.width} x {image.height}")
            pixels = np.asarray(image.convert(MODES[channels])).reshape(height, width, channels)
        except (binascii.Error, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            raise UserError(f"the prompt holds no whole PNG: {text[:40]!r}") from None
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1


def as_text(picture: Tensor) -> str:
    """A picture, uint8 [1 or 3, H, W], as a prompt."""
    file = io.BytesIO()
    pixels = picture.permute(1, 2, 0).numpy()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(file, "PNG", optimize=True)
    return BEGINS + base64.b64encode(file.getvalue()).decode()
