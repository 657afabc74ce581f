"""What a recipe may say of its data: the options of the format, with its defaults, and what recipes said before."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msd_ray.data import DataConfig, identity, load_data
from msd_ray.data.registry import of_today
from msd_ray.errors import UserError
from msd_ray.recipes import load_recipe, parse_recipe

from .formats import LABELS, arrays, images


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"name": "nothing"}, "data.name: there is no data set 'nothing', only digits, toy2d, .*, or module:function"),
        ({"name": "arrays"}, "data.folder: arrays needs a folder, where its files lie"),
        ({"folder": "/data"}, "data.folder: digits reads no files, so has no folder"),
        ({"options": {"n": 3}}, "data.options: digits has none"),
        (
            {"name": "toy2d", "options": {"sed": 3}},
            "unknown key data.options.sed; did you mean data.options.seed",
        ),
        ({"name": "idx", "folder": "/data", "options": {"held_out": "all"}}, "data.options.held_out: .*'t10k'"),
        ({"name": "idx", "options": {"folder": "/data"}}, "data.folder: idx needs a folder"),
    ],
)
def test_what_does_not_belong_together_is_refused_in_one_line(said: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        DataConfig(**said)
    assert "\n" not in str(refused.value)


def test_options_that_are_not_said_are_the_formats_own() -> None:
    assert DataConfig("toy2d", options={"classes": 4}).options == {"classes": 4, "samples": 8192, "seed": 0}
    assert DataConfig("toy2d") == DataConfig("toy2d", options={"seed": 0})


def test_recipes_that_said_options_beside_the_name_are_read() -> None:
    toy = load_recipe("toy2d", ["data.classes=4", "data.seed=3"])
    assert toy.data == DataConfig("toy2d", options={"classes": 4, "seed": 3})
    of_digits = {"name": "digits", "classes": 8, "samples": 8192, "seed": 0, "folder": "", "options": {}}
    assert parse_recipe(load_recipe("digits").to_json() | {"data": of_digits}).data == DataConfig()
    assert of_today({"name": "toy2d", "samples": 9, "options": {"seed": 1}}) == {
        "name": "toy2d",
        "options": {"samples": 9, "seed": 1},
    }


def test_teachers_of_toy2d_are_found_in_the_cache_as_before() -> None:
    assert identity(DataConfig("toy2d")) == {"name": "toy2d", "classes": 8, "samples": 8192, "seed": 0}


def test_files_are_opened_once_in_a_process_unless_they_change(tmp_path: Path) -> None:
    config = arrays(tmp_path, images("arrays"), LABELS)
    first = load_data(config)
    assert load_data(config).train.rows is first.train.rows
    assert load_data(replace(config, flip=True)).train.flips and not load_data(config).train.flips
    np.save(tmp_path / "labels.npy", LABELS[::-1].copy())
    os.utime(tmp_path / "labels.npy", ns=(0, (tmp_path / "images.npy").stat().st_mtime_ns + 10**9))
    assert load_data(config).train.classes.tolist() == LABELS[::-1].tolist()


def test_another_name_takes_nothing_of_the_recipes_data_along_whatever_the_order() -> None:
    for overrides in (["data.name=idx", "data.folder=/d"], ["data.folder=/d", "data.name=idx"]):
        assert load_recipe("toy2d", overrides).data == DataConfig("idx", "/d")
