"""Colour emoji, by Unicode block or each with its name: those of Noto Color Emoji (SIL Open Font License 1.1) that are
one named character.

The font's table CBDT holds a PNG of 136 x 128 pixels for each, which is set on a white square and made smaller by
averaging. Debian's package is fonts-noto-color-emoji.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from msd_ray.data.labelled import Labelled, data_set
from msd_ray.data.preprocessing import opened
from msd_ray.data.source import DataSet, InMemory
from msd_ray.errors import UserError, one_line
from msd_ray.ranges import Count, within

HELD_OUT_EVERY = 10
Character = tuple[int, bytes]
"""A code point, and the PNG of its glyph."""


@dataclass(frozen=True)
class _Font:
    """font: path of NotoColorEmoji.ttf. size: of a side in pixels."""

    font: str = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
    size: Annotated[int, within(ge=4, le=136)] = 32

    def _characters(self) -> list[Character]:
        """In the order of their code points. Raises UserError where there is no such font, or none in it."""
        try:
            return list(_characters(self.font))
        except FileNotFoundError:
            raise UserError(
                f"data.options.font: there is no {self.font}; install fonts-noto-color-emoji, or say where it is"
            ) from None
        except Exception as error:  # fontTools raises whatever it likes
            raise UserError(f"data.options.font: {self.font} has no colour emoji: {one_line(error)}") from None

    def _part(self, x: NDArray[np.uint8], y: NDArray[np.int64]) -> Labelled:
        return Labelled(InMemory(torch.from_numpy(x)), y, self.font)

    def _pixels(self, glyph: bytes) -> NDArray[np.uint8]:
        image = opened(glyph).convert("RGBA")
        side = max(image.size)
        square = Image.new("RGBA", (side, side), "white")
        square.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
        small = square.convert("RGB").resize((self.size, self.size), Image.Resampling.BOX)
        return np.asarray(small).transpose(2, 0, 1)


@dataclass(frozen=True)
class Emoji(_Font):
    """least: emoji that a block must have to be a class; with 30 there are eight. Every tenth of each class is held
    out."""

    least: Count = 30

    def load(self) -> DataSet:
        """Raises UserError where there is no such font, or too few emoji in it."""
        blocks = {name: found for name, found in self._blocks().items() if len(found) >= self.least}
        if not blocks:
            raise UserError(f"data.options.least: no Unicode block has {self.least} emoji in {self.font}")
        images = [self._pixels(glyph) for found in blocks.values() for _, glyph in found]
        x, rank = np.stack(images), np.concatenate([np.arange(len(found)) for found in blocks.values()])
        y = np.repeat(np.arange(len(blocks)), [len(found) for found in blocks.values()])
        held_out = rank % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        parts = [self._part(x[chosen], y[chosen]) for chosen in (~held_out, held_out)]
        return data_set(parts[0], parts[1] if held_out.any() else None, tuple(blocks))

    def _blocks(self) -> dict[str, list[Character]]:
        """By name, in the order of their code points."""
        from fontTools import unicodedata as blocks

        found = defaultdict[str, list[Character]](list)
        for code, glyph in self._characters():
            found[blocks.block(chr(code))].append((code, glyph))
        return found


@dataclass(frozen=True)
class NamedEmoji(_Font):
    """Each emoji is a class of its own, whose label is its Unicode name in small letters. Nothing is held out."""

    def load(self) -> DataSet:
        """Raises UserError where there is no such font."""
        found = self._characters()
        if not found:
            raise UserError(f"data.options.font: {self.font} has no colour emoji with a name")
        images = np.stack([self._pixels(glyph) for _, glyph in found])
        names = tuple(unicodedata.name(chr(code)).lower() for code, _ in found)
        return data_set(self._part(images, np.arange(len(found))), None, names)


def _characters(font: str) -> Iterator[Character]:
    """In the order of their code points."""
    from fontTools.ttLib import TTFont

    with TTFont(font, lazy=True) as file:
        glyphs: dict[str, Any] = file["CBDT"].strikeData[0]
        for code, name in sorted(file.getBestCmap().items()):
            if name in glyphs and unicodedata.name(chr(code), "") != "":
                yield code, glyphs[name].imageData
