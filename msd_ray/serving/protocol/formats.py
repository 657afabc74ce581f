"""The formats of images in messages, and how a client decodes them."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from msd_ray.serving.generated import ensemble_pb2 as pb

PNG, WEBP, JPEG, FLOAT32 = "png", "webp", "jpeg", "float32"
FORMATS = (PNG, WEBP, JPEG, FLOAT32)
_NUMBERS = {
    PNG: pb.IMAGE_FORMAT_PNG,
    WEBP: pb.IMAGE_FORMAT_WEBP,
    JPEG: pb.IMAGE_FORMAT_JPEG,
    FLOAT32: pb.IMAGE_FORMAT_FLOAT32,
}
_NAMES = {int(number): name for name, number in _NUMBERS.items()}


def number_of(name: str) -> pb.ImageFormat:
    """The contract's number of a format, 0 for none."""
    return _NUMBERS.get(name, pb.IMAGE_FORMAT_UNSPECIFIED)


def name_of(number: int) -> str:
    """The name of a format by the contract's number: empty for 0, a text with the number for an unknown one."""
    return _NAMES.get(number, f"number {number}" if number else "")


def to_array(data: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The sample that was sent as float32: writable, in this machine's byte order. Raises ValueError if bytes and shape
    disagree."""
    return np.frombuffer(data, "<f4").reshape(shape).astype(np.float32)


def to_picture(data: bytes) -> Pillow.Image:
    """The picture that was sent as PNG, WebP or JPEG. Raises OSError for anything else."""
    picture = Pillow.open(io.BytesIO(data), formats=["PNG", "WEBP", "JPEG"])
    picture.load()
    return picture
