"""Pictures as prompts: text and picture are the same thing, and what is no picture is refused."""

import base64
import io

import pytest
import torch
from PIL import Image

from msd_ray.conditions import ConditionsConfig, make_conditions
from msd_ray.conditions.picture_prompt import BEGINS, PicturePrompts, as_text
from msd_ray.errors import UserError

GREY = PicturePrompts((1, 4, 6))


def picture(seed: int, shape: tuple[int, ...] = (1, 4, 6)) -> torch.Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def png(image: Image.Image, kind: str = "PNG") -> str:
    file = io.BytesIO()
    image.save(file, kind)
    return BEGINS + base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_text_holds_the_picture_whole(channels: int) -> None:
    pictures = [picture(seed, (channels, 4, 6)) for seed in range(3)]
    tokens = PicturePrompts((channels, 4, 6)).tokens([as_text(each) for each in pictures])
    assert torch.equal(((tokens + 1) * 127.5).round().to(torch.uint8), torch.stack(pictures))


def test_partitions_compare_directions_in_the_space_of_pixels_whatever_else_is_in_the_batch() -> None:
    texts = [as_text(picture(seed)) for seed in range(5)]
    vectors = GREY.vectors(GREY.tokens(texts))
    rows = GREY.tokens(texts).flatten(1).double()
    torch.testing.assert_close(vectors.double(), rows / rows.norm(dim=1, keepdim=True), rtol=0, atol=1e-7)
    alone = torch.cat([GREY.vectors(GREY.tokens([text])) for text in texts])
    assert torch.equal(vectors, alone) and GREY.width == vectors.shape[1] == 24


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a red car", "here a prompt is a picture, data:image/png;base64,..., not 'a red car'"),
        (BEGINS + "AAAA", "the prompt holds no whole PNG"),
        (BEGINS + "not base64!", "the prompt holds no whole PNG"),
        (as_text(picture(0))[:-40], "the prompt holds no whole PNG"),
        (as_text(picture(0, (1, 6, 4))), "the picture must have 6 x 4 pixels, not 4 x 6"),
        (png(Image.new("L", (30_000, 30_000))), "the picture must have 6 x 4 pixels, not 30000 x 30000|no whole PNG"),
        (png(Image.new("L", (6, 4)), "GIF"), "the prompt holds no whole PNG"),
    ],
)
def test_what_is_no_such_picture_is_told_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        GREY.tokens([text])
    assert "\n" not in str(refused.value)


def test_colours_are_made_grey_where_pictures_are() -> None:
    red = Image.new("RGBA", (6, 4), (255, 0, 0, 255))
    assert GREY.tokens([png(red)]).unique().numel() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedder": "picture"}, "shape is that of a picture"),
        ({"shape": [1, 4, 4]}, "shape is that of a picture"),
        ({"embedder": "picture", "shape": [2, 4, 4]}, "shape is that of a picture"),
        ({"embedder": "picture", "shape": [4, 4]}, "shape is that of a picture"),
    ],
)
def test_the_shape_of_pictures_is_said_and_only_theirs(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConditionsConfig("prompts", options)


def test_any_picture_may_be_asked_for_beside_those_of_the_data() -> None:
    known = make_conditions(
        ConditionsConfig("prompts", {"embedder": "picture", "shape": [1, 4, 6]}), (as_text(picture(0)),)
    )
    asked = known.id_of(as_text(picture(1)))
    assert known.n == 1 and known.is_open and known.embedded_shape == (1, 4, 6)
    assert torch.equal(known.embed(known.encode([asked])), GREY.tokens([as_text(picture(1))]))
    assert "shape" not in ConditionsConfig("prompts", {}).options  # caches are older than it
