"""Grey images as tokens, and the pictures of these."""

from pathlib import Path

import pytest
import torch

from msd_ray.codecs import IDENTITY, CodecConfig, load_codec
from msd_ray.codecs.levels import Levels, are_tokens, levels_of
from msd_ray.data import DataConfig, load_data
from msd_ray.data.registry import fingerprint

from .formats import LABELS, arrays, images

DIGITS = load_data(DataConfig())


def config(levels: int) -> DataConfig:
    return DataConfig("levels", options={"levels": levels})


def test_digits_have_seventeen_levels_and_lose_nothing() -> None:
    data = load_data(config(17))
    assert data.shape == (17, 8, 8) and data.labels == DIGITS.labels
    for ours, theirs in ((data.train, DIGITS.train), (data.held_out, DIGITS.held_out)):
        assert torch.equal(Levels().to_pixels(ours.all().x), theirs.all().x) and torch.equal(
            ours.classes, theirs.classes
        )


@pytest.mark.parametrize("levels", [3, 5, 8, 256])
def test_a_pixel_is_the_nearest_of_the_levels(levels: int) -> None:
    x = load_data(config(levels)).train.all().x
    assert are_tokens(x) and x.dtype == torch.float32
    pixels, steps = Levels().to_pixels(x), torch.linspace(-1, 1, levels)
    apart = (DIGITS.train.all().x[..., None] - steps).abs()
    torch.testing.assert_close((DIGITS.train.all().x - pixels).abs(), apart.min(-1).values, atol=1e-6, rtol=0)
    assert torch.isin(pixels.mul(levels - 1).add(levels - 1).div(2).round(), torch.arange(levels)).all()


def test_values_beyond_black_and_white_are_these() -> None:
    assert levels_of(torch.tensor([[[[-3.0, 3.0]]]]), 5).flatten().tolist() == [0, 4]


def test_images_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    grey = images("arrays")[:, :1]
    folder = arrays(tmp_path, grey, LABELS).folder
    data = load_data(DataConfig("levels", options={"of": {"name": "arrays", "folder": folder}, "levels": 4}))
    assert are_tokens(data.train.take(torch.tensor([3, 1])).x) and data.shape == (4, *grey.shape[2:])


def test_caches_tell_levels_apart() -> None:
    assert len({fingerprint(config(5)), fingerprint(config(6)), ""}) == 3


def test_what_are_no_tokens() -> None:
    tokens = load_data(config(4)).train.take(torch.arange(3)).x
    assert are_tokens(tokens) and not are_tokens(0.5 * tokens) and not are_tokens(DIGITS.train.take(torch.arange(3)).x)
    assert not are_tokens(torch.zeros(2, 4, 8, 8))


def test_the_codec_is_named_in_recipes_and_has_pictures_of_tokens_of_pixels_only() -> None:
    codec = load_codec(CodecConfig("levels"))
    assert codec.picture_shape((17, 8, 8)) == (1, 8, 8) and CodecConfig("levels").of_tokens
    assert not CodecConfig().of_tokens and codec != IDENTITY
    with pytest.raises(ValueError, match=r"samples of shape \[2\] are no tokens"):
        codec.picture_shape((2,))
