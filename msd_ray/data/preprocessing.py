"""What becomes of an image file before networks see it: one of the named ways to a square, and to grey or RGB.

A teacher, its preprocessing and its reference statistics belong together: EDM's teachers saw `center-crop`, those of
ADM and EDM2 `center-crop-dhariwal`, the ImageNet-64 of arXiv 1707.08819 is `squeeze`.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from msd_ray.errors import one_line
from msd_ray.storage import LFS_POINTER

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "GIF", "TIFF")
"""That are decoded. Pillow knows others, some of which start programs."""
Way = Literal["none", "center-crop", "center-crop-dhariwal", "squeeze", "pad"]


warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # such images are refused in one line


class BrokenImage(Exception):  # noqa: N818
    """An image that cannot be used, and why."""


class HostileImage(BrokenImage):
    """One that no set should hold: far too large, or a pointer of git LFS."""


@dataclass(frozen=True)
class Preprocessing:
    """way: to images of `size` x `size` pixels; `none` takes them as they are, which must be of that size where one is
    given. channels: 1 or 3."""

    way: Way
    size: tuple[int, int]
    channels: int

    def __call__(self, data: bytes) -> NDArray[np.uint8]:
        """[C, H, W] of a file's content. Raises BrokenImage."""
        image = opened(data)
        if self.way == "none" and image.size != self.size[::-1]:
            raise BrokenImage(f"has {image.height} x {image.width} pixels, not {self.size[0]} x {self.size[1]}")
        try:
            pixels = np.asarray(_WAYS[self.way](_in_colours(image, self.channels), self.size[0]))
        except Exception as error:  # Pillow's decoders raise whatever they like
            raise _broken(error) from None
        return np.ascontiguousarray(pixels.reshape(*self.size, self.channels).transpose(2, 0, 1))


def opened(data: bytes) -> Image.Image:
    """An image of which only the head is read yet. Raises BrokenImage."""
    if data.startswith(LFS_POINTER):
        raise HostileImage("is a pointer of git LFS, not the file itself; run `git lfs pull` where it came from")
    most = Image.MAX_IMAGE_PIXELS or 1 << 27
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise HostileImage(f"has more than {2 * most} pixels") from None
    except Exception as error:  # as above
        raise _broken(error) from None
    if image.width * image.height > most:
        raise HostileImage(f"has {image.height} x {image.width} pixels, more than {most}")
    return image


def _broken(error: Exception) -> BrokenImage:
    why = "no image of a known kind" if isinstance(error, UnidentifiedImageError) else one_line(error)
    return BrokenImage(f"cannot be decoded ({why})")


def _in_colours(image: Image.Image, channels: int) -> Image.Image:
    """In grey or RGB; what is transparent becomes white."""
    if image.mode[:1] in "IF":
        raise ValueError(f"its pixels are {image.mode}, not of 8 bits")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB" if channels == 3 else "L")


def _centre(image: Image.Image, size: int) -> Image.Image:
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _center_crop(image: Image.Image, size: int) -> Image.Image:
    """The largest square in the middle, made smaller or larger by Lanczos' filter."""
    return _centre(image, min(image.size)).resize((size, size), Image.Resampling.LANCZOS)


def _center_crop_dhariwal(image: Image.Image, size: int) -> Image.Image:
    """Halved by averaging while both sides have twice the pixels, then bicubic, then cut (as arXiv 2105.05233 does)."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    return _centre(image, size)


def _squeeze(image: Image.Image, size: int) -> Image.Image:
    """The whole image, whatever its proportions, by averaging (arXiv 1707.08819)."""
    return image.resize((size, size), Image.Resampling.BOX)


def _pad(image: Image.Image, size: int) -> Image.Image:
    """In the middle of a black square."""
    if max(image.size) > size:
        raise ValueError(f"its {image.height} x {image.width} pixels get no border to {size} x {size}")
    square = Image.new(image.mode, (size, size))
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return square


_WAYS: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "none": lambda image, size: image,
    "center-crop": _center_crop,
    "center-crop-dhariwal": _center_crop_dhariwal,
    "squeeze": _squeeze,
    "pad": _pad,
}
