"""What is decoded is what was encoded."""

import numpy as np
import pytest
import torch

from msd_ray.codecs import to_bytes
from msd_ray.serving.protocol.formats import FLOAT32, JPEG, PNG, WEBP, to_array, to_picture
from msd_ray.serving.service.student_worker import encoded

SHAPES = [(1, 8, 8), (3, 5, 7)]


@pytest.mark.parametrize("format", [PNG, WEBP])
@pytest.mark.parametrize("shape", SHAPES)
def test_pictures_keep_every_pixel(shape: tuple[int, ...], format: str) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    picture = to_picture(encoded(x, format))
    assert picture.format == format.upper()
    pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(pixels, to_bytes(x).expand(3, -1, -1))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_is_nearly_the_picture(channels: int) -> None:
    slopes = torch.linspace(-1, 1, 16).expand(16, 16)
    x = torch.stack([slopes, slopes.T, -slopes])[:channels]
    picture = to_picture(encoded(x, JPEG))
    assert (picture.format, picture.mode) == ("JPEG", "L" if channels == 1 else "RGB")
    pixels = torch.from_numpy(np.array(picture)).reshape(16, 16, channels).permute(2, 0, 1)
    assert (pixels.int() - to_bytes(x).int()).abs().max() <= 8


@pytest.mark.parametrize("shape", [*SHAPES, (2,)])
def test_numbers_keep_every_bit(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x.view(-1)[0] = float("nan")
    array = to_array(encoded(x, FLOAT32), shape)
    assert array.tobytes() == x.numpy().tobytes()
    assert array.flags.writeable


def test_bytes_of_another_shape_are_no_array() -> None:
    with pytest.raises(ValueError, match="reshape"):
        to_array(b"\0" * 8, (3,))


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_not_opened(data: bytes) -> None:
    with pytest.raises(OSError, match=r"."):
        to_picture(data)
