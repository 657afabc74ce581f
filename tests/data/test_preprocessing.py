"""The named ways from an image file to a square, against their definitions."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from msd_ray.data import DataConfig, load_data
from msd_ray.data.preprocessing import BrokenImage, Preprocessing
from msd_ray.errors import UserError

from .formats import folder, png

RNG = np.random.default_rng(3)
TALL = RNG.integers(0, 256, (3, 40, 24), dtype=np.uint8)


def prepared(way: str, image: np.ndarray, size: int, channels: int = 3) -> np.ndarray:
    return Preprocessing(way, (size, size), channels)(png(image))  # type: ignore[arg-type]


def saved(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def test_squeeze_averages_the_whole_image() -> None:
    means = TALL.reshape(3, 8, 5, 8, 3).mean(axis=(2, 4))
    assert np.abs(prepared("squeeze", TALL, 8) - means).max() <= 1  # Pillow rounds twice


def test_the_centre_is_what_both_crops_are_of() -> None:
    centre = TALL[:, 8:32]
    assert np.array_equal(prepared("center-crop", TALL, 24), centre)  # Lanczos' filter of the same size changes nothing
    assert np.array_equal(prepared("center-crop-dhariwal", TALL, 24), centre)
    wide = TALL.transpose(0, 2, 1)
    assert np.array_equal(prepared("center-crop", wide, 24), centre.transpose(0, 2, 1))


def test_dhariwals_crop_halves_by_averaging_and_then_interpolates() -> None:
    """24 x 40 at size 10 is halved once, to 12 x 20, then made 10 x 17 by bicubic interpolation, of which rows 3 to 12
    stay; at size 12 only the halving is left, and at size 13 there is none."""
    half = Image.fromarray(TALL.transpose(1, 2, 0)).resize((12, 20), Image.Resampling.BOX)
    halves = np.asarray(half).transpose(2, 0, 1)
    assert np.abs(halves - TALL.reshape(3, 20, 2, 12, 2).mean(axis=(2, 4))).max() <= 1
    assert np.array_equal(prepared("center-crop-dhariwal", TALL, 12), halves[:, 4:16])
    smaller = half.resize((10, 17), Image.Resampling.BICUBIC)
    assert np.array_equal(prepared("center-crop-dhariwal", TALL, 10), np.asarray(smaller)[3:13].transpose(2, 0, 1))
    plain = Image.fromarray(TALL.transpose(1, 2, 0)).resize((13, 22), Image.Resampling.BICUBIC)
    assert np.array_equal(prepared("center-crop-dhariwal", TALL, 13), np.asarray(plain)[4:17].transpose(2, 0, 1))


def test_lanczos_filter_keeps_a_plain_colour_and_a_slope() -> None:
    slope = np.broadcast_to(np.arange(0, 240, 5, dtype=np.uint8), (3, 48, 48))
    made = prepared("center-crop", slope, 16)[0, 8].astype(int)
    assert np.abs(made[3:-3] - (5 + 15 * np.arange(16))[3:-3]).max() <= 1


def test_pad_puts_the_image_into_a_black_square_and_takes_no_larger_one() -> None:
    made = prepared("pad", TALL, 42)
    assert np.array_equal(made[:, 1:41, 9:33], TALL) and made.sum() == TALL.sum()
    with pytest.raises(BrokenImage, match="its 40 x 24 pixels get no border to 32 x 32"):
        prepared("pad", TALL, 32)


def test_what_is_transparent_becomes_white_and_colours_are_what_is_asked_for() -> None:
    pixels = np.full((4, 4, 4), 100, dtype=np.uint8)
    pixels[:, :2, 3], pixels[:, 2:, 3] = 255, 0
    made = Preprocessing("none", (4, 4), 3)(saved(Image.fromarray(pixels)))
    assert made[:, :, 0].tolist() == [[100] * 4] * 3 and made[:, :, 3].tolist() == [[255] * 4] * 3
    palette = Image.fromarray(TALL.transpose(1, 2, 0)).quantize(4)
    wanted = np.asarray(palette.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(Preprocessing("none", (40, 24), 3)(saved(palette)), wanted)
    grey = RNG.integers(0, 256, (1, 6, 6), dtype=np.uint8)
    assert np.array_equal(prepared("none", grey, 6, channels=3), np.repeat(grey, 3, axis=0))
    assert np.array_equal(prepared("none", grey, 6, channels=1), grey)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_other_kinds_of_files(kind: str) -> None:
    data = saved(Image.new("RGB", (8, 8), (255, 255, 255)), kind)
    assert Preprocessing("none", (8, 8), 3)(data).min() >= 250


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "no image of a known kind"),
        (saved(Image.fromarray(np.ones((8, 8), np.uint16))), "are I;16, not of 8 bits"),
    ],
)
def test_what_is_not_decoded(data: bytes, message: str) -> None:
    with pytest.raises(BrokenImage, match=message):
        Preprocessing("none", (8, 8), 1)(data)


@pytest.mark.parametrize("coloured", [None, 0, 2])
def test_there_are_three_channels_where_one_image_has_colours(coloured: int | None, tmp_path: Path) -> None:
    x = [RNG.integers(0, 256, (3 if i == coloured else 1, 6, 6), dtype=np.uint8) for i in range(4)]
    data = load_data(folder(tmp_path, [png(each) for each in x], np.arange(4) // 2))
    channels = 1 if coloured is None else 3
    assert data.shape == (channels, 6, 6)
    taken = data.train.rows.take(np.arange(4)).numpy()
    assert all(np.array_equal(taken[i], np.broadcast_to(x[i], (channels, 6, 6))) for i in range(4))


def test_a_recipe_says_which_way_and_a_size_with_it(tmp_path: Path) -> None:
    config = folder(tmp_path, [png(TALL)] * 4, np.arange(4) // 2)
    asked = DataConfig("folder", config.folder, {"preprocessing": "center-crop", "size": 24, "channels": 1})
    data = load_data(asked)
    grey = Image.fromarray(TALL[:, 8:32].transpose(1, 2, 0)).convert("L")
    assert data.shape == (1, 24, 24)
    assert torch.equal(data.train.rows.take(np.array([3]))[0, 0], torch.from_numpy(np.array(grey)))
    with pytest.raises(UserError, match="size must say how many pixels a side is to have after squeeze"):
        DataConfig("folder", config.folder, {"preprocessing": "squeeze"})
