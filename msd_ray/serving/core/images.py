"""Samples as the bytes that travel."""

import io

from PIL import Image as Pillow
from torch import Tensor

from msd_ray.evaluation.features import to_bytes
from msd_ray.serving.wire.formats import FLOAT32, PNG


def encoded(x: Tensor, format: str) -> bytes:
    """x: [C, H, W] with 1 or 3 channels in [-1, 1] as PNG or lossless WebP, of any shape as little-endian float32."""
    if format == FLOAT32:
        return bytes(x.numpy().astype("<f4").tobytes())
    pixels = to_bytes(x).permute(1, 2, 0).numpy()
    picture, file = Pillow.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels), io.BytesIO()
    if format == PNG:
        picture.save(file, "PNG")
    else:
        picture.convert("RGB").save(file, "WEBP", lossless=True)
    return file.getvalue()
