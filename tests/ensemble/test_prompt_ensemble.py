"""An ensemble of prompts: on disk, any text makes a picture, and which student makes it can be had."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from msd_ray.conditions import ConditionsConfig, PartitionConfig, fit, make_conditions
from msd_ray.ensemble import Ensemble, read_description, save_ensemble
from msd_ray.errors import UserError
from msd_ray.export import export
from msd_ray.runs.generate import generate_file
from msd_ray.storage import Store

from ..serving.prompts import CONDITIONS, PROMPTS, random_members, saved_prompts


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return saved_prompts(tmp_path / "made")


def test_no_text_is_kept_and_any_text_makes_a_sample_by_the_student_that_owns_it(uri: str) -> None:
    assert not any(b"heart" in Path(uri, name).read_bytes() for name in ("manifest.json", "owners.npy"))
    ensemble = Ensemble.load(uri)
    asked = ["red heart", "a green house", "🚗 in the rain", "синий дом"]
    x = ensemble.generate(asked, [0, 0, 1, 2])
    assert x.shape == (4, 3, 8, 8) and not torch.equal(x[0], x[1])
    parts = [place.part for place in ensemble.partition.place(ensemble.conditions, asked)]
    own = ensemble.part(parts[1]).generate([("a green house", 0)])
    assert torch.equal(own[0], x[1])


def test_a_sample_does_not_show_what_it_was_generated_with(uri: str) -> None:
    ensemble = Ensemble.load(uri)
    asked, seeds = [*PROMPTS, "a red car", "blue"] * 3, list(range(33))
    together = ensemble.generate(asked, seeds)
    for i in (0, 5, 10, 32):
        assert torch.equal(ensemble.generate(asked[i : i + 1], seeds[i : i + 1])[0], together[i])


def test_generate_says_which_student_makes_what_and_by_what_margin(uri: str, tmp_path: Path) -> None:
    made = generate_file(uri, "", "0-1", tmp_path / "made.png", prompts=["red  heart", "a car"])
    assert made["shape"] == [2, 2, 3, 8, 8] and (tmp_path / "made.png").exists()
    ensemble = Ensemble.load(uri)
    places = ensemble.partition.place(ensemble.conditions, ["red heart", "a car"])
    assert made["conditions"] == [
        {"asked": text, "students": [place.part], "margin": place.margin}
        for text, place in zip(["red heart", "a car"], places, strict=True)
    ]


@pytest.mark.parametrize(
    ("conditions", "prompts", "message"),
    [
        ("", [], "these students make what words ask for: say what, with --prompt TEXT"),
        ("cat", [], "these students make what words ask for: say what, with --prompt TEXT"),
        ("0-3", [], "ask with a prompt, a text, not with the number 0"),
        ("0", ["a cat"], "--prompt says in words what --conditions says by number: give one of them"),
        ("", ["a cat", " "], "a prompt must not be empty"),
    ],
)
def test_what_cannot_be_made_is_refused_and_nothing_is_written(
    conditions: str, prompts: list[str], message: str, uri: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        generate_file(uri, conditions, "0", tmp_path / "made.png", prompts=prompts)
    assert not (tmp_path / "made.png").exists()


def test_an_ensemble_of_prompts_with_certain_words_makes_no_others(tmp_path: Path) -> None:
    config = replace(CONDITIONS, options={**CONDITIONS.options, "only": ["heart"]})
    partition = fit(PartitionConfig(1), make_conditions(config, ("red heart", "blue heart")))
    save_ensemble(Store(str(tmp_path)), {"conditions": vars(config)}, partition, (), random_members(1))
    ensemble = Ensemble.load(str(tmp_path))
    assert ensemble.generate(["a green heart"], [0]).shape == (1, 3, 8, 8)
    message = "only prompts with one of these words are known here: heart"
    with pytest.raises(UserError, match=message):
        ensemble.generate(["a green heart", "a car"], [0, 1])
    with pytest.raises(UserError, match=message):
        generate_file(str(tmp_path), "", "0", tmp_path / "made.png", prompts=["a car"])


def test_an_ensemble_whose_partition_cannot_place_prompts_is_none(tmp_path: Path) -> None:
    partition = fit(PartitionConfig(3), make_conditions(ConditionsConfig(), PROMPTS))
    with pytest.raises(ValueError, match="a partition that cannot place prompts"):
        save_ensemble(Store(str(tmp_path)), {"conditions": vars(CONDITIONS)}, partition, (), random_members(3))


def test_only_pipelines_of_single_students_are_exported(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="students of prompts are exported with --format diffusers"):
        export(uri, "safetensors", 0, tmp_path / "out")
    assert isinstance(read_description(Store(uri)).labels, tuple)
