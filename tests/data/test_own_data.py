"""A data set of a user's own, named in the recipe as module:function."""

from dataclasses import replace
from pathlib import Path

import a_users_data
import pytest
import torch

from msd_ray.data import DataConfig, fingerprint, load_data
from msd_ray.errors import UserError
from msd_ray.recipes import Recipe, parse_recipe
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_directory import keep_data, keep_recipe
from msd_ray.runs.run_results import evaluate_uri, report_uri
from msd_ray.runs.teacher_cache import cached_in
from msd_ray.storage import Store

NAME = "a_users_data:stripes"


def recipe(**data: object) -> Recipe:
    return parse_recipe(
        {
            "name": "stripes",
            "data": {"name": NAME, "options": {"n": 64}, **data},
            "network": {"kind": "unet", "channels": 8, "multipliers": [1], "blocks": 1, "attention": []},
            "stages": {"dm": {"objective": "dm", "images": 320, "batch": 16}},
        }
    )


def test_it_is_made_with_its_options() -> None:
    data = load_data(DataConfig(name=NAME, options={"n": 64, "classes": 3}))
    assert len(data.train) == 64 and len(data.held_out) == 16 and data.labels == ("2 rows", "3 rows", "4 rows")
    assert data.train.all().x.min() == -1 and data.train.all().x.dtype == torch.float32


def test_a_plan_is_made_of_it_and_its_teacher_is_kept_by_its_fingerprint(tmp_path: Path) -> None:
    context = RunContext(recipe(), Store(str(tmp_path)))
    assert context.plan.teacher.sample_shape == (1, 8, 8) and context.plan.labels[0] == "2 rows"
    cache = Store(str(tmp_path / "cache"))
    folders = [cached_in(cache, r, context.plan.teacher).uri for r in (recipe(), recipe(options={"n": 65}), recipe())]
    assert folders[0] == folders[2] != folders[1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataConfig(name="a_users_data:missing"), "'a_users_data:missing' cannot be imported: .*no attribute"),
        (DataConfig(name="no_such_module:f"), "'no_such_module:f' cannot be imported: No module named"),
        (DataConfig(name=NAME, options={"m": 1}), "stripes gives no data set: .*unexpected keyword"),
        (DataConfig(name="a_users_data:nothing"), "must return a msd_ray.data.DataSet with a fingerprint"),
    ],
)
def test_what_gives_none_is_told_in_one_line(data: DataConfig, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        load_data(data)
    assert "\n" not in str(refused.value)


def test_a_run_goes_on_with_the_same_samples_only(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    keep_data(store, fingerprint(DataConfig(name=NAME, options={"n": 64})))
    keep_data(store, fingerprint(DataConfig(name=NAME, options={"n": 64})))
    with pytest.raises(UserError, match="was trained on other samples than there are now"):
        keep_data(store, fingerprint(DataConfig(name=NAME, options={"n": 68})))


def test_what_only_a_directory_names_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    keep_recipe(store, replace(recipe(), data=DataConfig(name="harmful:data")))
    monkeypatch.setenv("MSD_RAY_OWN_CODE", "mine")
    for act in (
        lambda: evaluate_uri(store.uri, [], lambda _: None, print),
        lambda: report_uri(store.uri, print, print),
    ):
        with pytest.raises(
            UserError,
            match=r"names harmful:data as its data.name, .*set MSD_RAY_OWN_CODE=mine,harmful$",
        ):
            act()


def test_a_student_asks_for_no_sample_of_another(tmp_path: Path) -> None:
    train = load_data(DataConfig(name=NAME, options={"n": 64})).train
    a_users_data.TAKEN.clear()
    train.only(torch.tensor([1, 2])).all()
    assert {1, 2} == a_users_data.TAKEN
