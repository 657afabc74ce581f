"""Images whose conditions are smaller versions of themselves."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from msd_ray.codecs import to_bytes
from msd_ray.conditions.picture_prompt import PicturePrompts, as_text
from msd_ray.data import DataConfig, load_data
from msd_ray.data.super_resolution import reduced
from msd_ray.errors import UserError
from msd_ray.runs.plan import Plan
from msd_ray.runs.run_context import RunContext

from .formats import LABELS, arrays, images


def planned(*overrides: str, recipe: str = "digits-super-resolution") -> Plan:
    return RunContext.of(recipe, list(overrides), None).plan


def test_each_image_is_asked_for_by_its_smaller_version() -> None:
    data, digits = load_data(DataConfig("super-resolution")), load_data(DataConfig())
    assert data.classes == len(data.train) == len(digits.train) and not len(data.held_out)
    some = torch.tensor([0, 700, 1441])
    samples = data.train.take(some)
    assert torch.equal(samples.condition, some) and torch.equal(samples.x, digits.train.take(some).x)
    shown = PicturePrompts((1, 4, 4)).tokens([data.labels[i] for i in some])
    expected = F.interpolate(samples.x.double(), (4, 4), mode="bicubic", antialias=True).clamp(-1, 1)
    torch.testing.assert_close(shown.double(), expected, rtol=0, atol=1 / 255 + 1e-6)


def test_any_data_of_images_can_be_made_smaller(tmp_path: Path) -> None:
    config = arrays(tmp_path, images("arrays"), LABELS)
    options = {"of": {"name": "arrays", "folder": config.folder}, "factor": 4}
    data = load_data(DataConfig("super-resolution", options=options))
    assert data.classes == 40 and PicturePrompts((3, 2, 2)).tokens(data.labels).shape == (40, 3, 2, 2)


def test_a_constant_image_stays_constant() -> None:
    assert torch.allclose(reduced(torch.full((1, 3, 8, 8), 0.25), 2), torch.full((1, 3, 4, 4), 0.25), atol=1e-6)


def test_what_cannot_be_made_smaller_is_told_in_one_line() -> None:
    for options in ({"factor": 3}, {"of": {"name": "toy2d"}}):
        with pytest.raises(UserError, match=r"data\.options\.factor: samples of shape .* cannot be made") as refused:
            load_data(DataConfig("super-resolution", options=options))
        assert "\n" not in str(refused.value)


def test_the_recipe_divides_pictures_it_has_never_seen() -> None:
    plan = planned()
    held_out = load_data(DataConfig()).held_out.all().x
    asked = [plan.conditions.id_of(as_text(each)) for each in to_bytes(reduced(held_out, 2))]
    places = plan.ensembles[0].partition.place(plan.conditions, asked)
    parts = torch.tensor([place.part for place in places]).bincount()
    assert len(parts) == 2 and parts.min() > 0.3 * len(held_out)


def test_networks_that_take_no_pictures_are_refused() -> None:
    with pytest.raises(UserError, match="network: unet takes one vector of a prompt"):
        planned("network={kind: unet, channels: 16, multipliers: [1, 2], blocks: 1, attention: [4]}")
    with pytest.raises(UserError, match=r"picture-unet takes prompts .*=picture makes them, not hashed-ngrams"):
        planned("conditions={kind: prompts}")


def test_only_students_that_see_a_picture_begin_with_it() -> None:
    assert planned("student.begins=picture").student.network.begins == "picture"
    assert planned("student.begins=picture").teacher.network.begins == "noise"
    with pytest.raises(UserError, match=r"student\.begins: students of kind unet see no picture; write noise"):
        planned("student.begins=picture", recipe="digits")
    with pytest.raises(UserError, match=r"network\.begins: teachers begin with noise; write student\.begins=picture"):
        planned("network.begins=picture")
    tsm = "stages={tsm: {objective: o2mkd, images: 640, batch: 16}}"
    with pytest.raises(UserError, match=r"begins: what o2mkd makes \(stages\.tsm\) begins with noise; write noise"):
        planned("student.begins=picture", tsm)
