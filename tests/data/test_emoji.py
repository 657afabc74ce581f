"""Emoji by Unicode block: on white, smaller, every tenth held out; those of Noto Color Emoji where it is installed."""

import io
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from msd_ray.data import DataConfig, emoji, fingerprint, load_data
from msd_ray.errors import UserError

NOTO = Path(emoji.Emoji().font)
FACES, CARS, ARROWS = [*range(0x1F600, 0x1F60C)], [*range(0x1F680, 0x1F68B)], [0x2194, 0x2195]


def glyph(code: int) -> bytes:
    """8 x 6 pixels of one grey, of which the right half is transparent."""
    pixels = np.full((6, 8, 4), code % 251, dtype=np.uint8)
    pixels[:, :, 3] = [255] * 4 + [0] * 4
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def small_font(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = sorted([*FACES, *CARS, *ARROWS])
    monkeypatch.setattr(emoji, "_characters", lambda font: ((code, glyph(code)) for code in codes))


@pytest.mark.usefixtures("small_font")
def test_blocks_of_enough_emoji_are_the_classes_and_every_tenth_is_held_out() -> None:
    data = load_data(DataConfig("emoji", options={"least": 3, "size": 4}))
    assert data.labels == ("Emoticons", "Transport and Map Symbols") and data.shape == (3, 4, 4)
    assert data.train.classes.tolist() == [0] * 11 + [1] * 10 and data.held_out.classes.tolist() == [0, 1]
    with_arrows = load_data(DataConfig("emoji", options={"least": 2, "size": 4}))
    assert with_arrows.labels == ("Arrows", *data.labels)
    with pytest.raises(UserError, match="no Unicode block has 99 emoji"):
        load_data(DataConfig("emoji", options={"least": 99}))


@pytest.mark.usefixtures("small_font")
def test_a_glyph_lies_in_the_middle_of_a_white_square_and_is_averaged() -> None:
    """8 x 6 becomes 8 x 8 with a white line above and below; 2 x 2 pixels of it are one."""
    data = load_data(DataConfig("emoji", options={"least": 3, "size": 4}))
    grey = FACES[0] % 251
    edge = round((grey + 255) / 2)
    expected = torch.tensor([[edge, edge, 255, 255], *[[grey, grey, 255, 255]] * 2, [edge, edge, 255, 255]])
    first = data.train.rows.take(np.array([0]))[0]
    assert (first.long() - expected).abs().max() <= 1  # of rounding
    assert torch.equal(data.train.all().x[0], first.float() / 127.5 - 1)


@pytest.mark.skipif(not NOTO.exists(), reason="fonts-noto-color-emoji is not installed")
def test_those_of_noto_color_emoji() -> None:
    data = load_data(DataConfig("emoji"))
    assert data.shape == (3, 32, 32) and {"Emoticons", "Transport and Map Symbols"} <= {*data.labels}
    assert data.train.classes.bincount().min() >= 27 and len(data.train) > 1000
    assert torch.equal(data.train.all().x, load_data(DataConfig("emoji")).train.all().x)
    marks = {fingerprint(DataConfig("emoji", options={"size": size})) for size in (16, 32)}
    assert len(marks) == 2 and "" not in marks
    faces = [code for code, _ in emoji._characters(str(NOTO)) if 0x1F600 <= code < 0x1F650]
    assert len(faces) == 80 and unicodedata.name(chr(faces[0])) == "GRINNING FACE"


def test_a_font_that_is_none_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.ttf").write_bytes(b"no font")
    for path, message in ((tmp_path / "a.ttf", "has no colour emoji: "), (tmp_path / "b.ttf", "install fonts-noto-")):
        with pytest.raises(UserError, match=message) as refused:
            load_data(DataConfig("emoji", options={"font": str(path)}))
        assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("small_font")
def test_each_emoji_may_be_a_class_that_has_its_name() -> None:
    data = load_data(DataConfig("emoji-names", options={"size": 4}))
    assert data.labels[:2] == ("left right arrow", "up down arrow") and data.classes == len(FACES + CARS + ARROWS)
    assert data.train.classes.tolist() == list(range(data.classes)) and len(data.held_out) == 0
    assert torch.equal(
        data.train.all().x[2], load_data(DataConfig("emoji", options={"least": 2, "size": 4})).train.all().x[2]
    )
