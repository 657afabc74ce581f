"""What a definition may say, and the recipes that follow from it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from msd_ray.errors import UserError
from msd_ray.storage import Store
from msd_ray.sweep.definition import SchedulerConfig, load_definition, parse_definition
from msd_ray.sweep.milestones import milestones, shareable
from msd_ray.sweep.recipe_space import RecipeSpace
from msd_ray.sweep.sweep_directory import keep_definition, read_definition, refuse_other_definition

from ..recipes.stand_ins import stand_ins
from .cases import DM, SAID, TSM, recipe_space

EVERY_80 = {"training.checkpoint_every": 80}
SHIPPED = sorted((Path(__file__).parents[2] / "tune_configs").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_definitions_are_named_after_their_file_and_all_their_trials_are_recipes(
    path: Path, tmp_path: Path
) -> None:
    said = load_definition(str(path))
    found = RecipeSpace.of(replace(said, overrides=said.overrides | stand_ins(said.recipe, tmp_path / "data")))
    assert found.definition.name == path.stem
    assert len(found.check()) == len(found.listed or [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrcs": {}}, "unknown key metrcs; did you mean metrics?"),
        ({"scheduler": {"kind": "asha", "factr": 1}}, "unknown key scheduler.factr; did you mean scheduler.factor?"),
        ({"metrics": {"fidd": "min"}}, "no trial reports fidd, only fid, kid"),
        ({"metrics": {"fid": "least"}}, "metrics.fid"),
        ({"metrics": {}}, "metrics must name at least one"),
        ({"scheduler": {"kind": "asha", "metric": "loss"}}, "no trial reports loss"),
        ({"searcher": {"kind": "random"}}, "budget.trials must say how many trials"),
        ({"budget": {"trials": 0}}, "budget.trials: input should be greater than or equal to 1, not 0"),
        ({"trials": {"concurrent": 0}}, "trials.concurrent: input should be greater than or equal to 1, not 0"),
        ({"keep": "some"}, "keep"),
        ({"space": {"fid": {"a": {}, "b": {}}}}, "space.fid: results have a column of that name"),
        ({"overrides": {**SAID["overrides"], "init": "nowhere"}}, "nowhere"),
        ({"space": {"partition.q": [1]}}, "unknown key partition.q; did you mean partition.k?"),
        ({"space": {"partition.k": [1, 5]}}, "partition.k=5: 5 students cannot share 4 classes"),
        ({"space": {"partition.k": [1, "two"]}}, "partition.k"),
        ({"space": {"teacher.images": [6400, 3200]}}, "all trials of a sweep share data, network, teacher"),
        ({"space": {"network.width": [16, 32]}}, "all trials of a sweep share"),
        ({"space": {"noise.sigma_data": [0.5, 1.0]}}, "all trials of a sweep share"),
        ({"space": {"recipe": ["nowhere"]}}, "no recipe nowhere"),
        ({"recipe": "nowhere"}, "no recipe nowhere"),
        ({"overrides": {"recipe": "digits"}}, "recipe: 'digits' is named neither by `recipe` nor by a list in `space`"),
        (
            {"scheduler": {"kind": "asha", "first": 32_000}},
            "scheduler.first (32,000): no trial would be measured before its end, at most 320 images, so none could be "
            "stopped; lower it together with training.checkpoint_every, or scheduler.kind: none",
        ),
        (
            {"scheduler": {"kind": "median", "first": 320}, "overrides": {**SAID["overrides"], **EVERY_80}},
            "before its end, at most 320 images, so none could be stopped; write at most 240, or scheduler.kind: none",
        ),
        (
            {"scheduler": {"kind": "asha", "first": 100}, "overrides": {**SAID["overrides"], **EVERY_80}},
            "scheduler.first (100) must be a multiple of training.checkpoint_every (80): write 80 or 160",
        ),
        (
            {"scheduler": {"kind": "asha"}},
            "scheduler.first (1,000): no trial would be measured before its end, at most 320 images",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        recipe_space(**changes).check()
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_values_that_only_some_trials_have_are_found_before_any_runs_where_trials_are_not_known_yet() -> None:
    optuna = {"searcher": {"kind": "optuna"}, "budget": {"trials": 1}}
    with pytest.raises(UserError, match="size=odd"):
        recipe_space(
            space={"partition.k": [1], "size": {"full": {}, "odd": {"student.multipliers": [1, 1]}}}, **optuna
        ).check()


def test_a_trial_is_the_base_recipe_with_its_changes() -> None:
    recipe = recipe_space().recipe(3, {"partition.k": 4, "size": "half"})
    assert (recipe.name, recipe.partition.k, recipe.student.channel_factor) == ("tiny-0003", 4, 0.5)
    assert recipe.partition.kind == "sequential" and recipe.stages["dm"].images == 320
    assert recipe.network == recipe_space().first.network


def test_the_base_recipe_itself_can_be_searched() -> None:
    found = recipe_space(space={"recipe": ["digits", "digits-sid"]}, recipe="digits", overrides={"partition.k": 2})
    assert [list(plan.recipe.stages) for plan in found.check()] == [["dm", "adm"], ["sid"]]


def test_reports_come_at_rungs_and_at_the_end_but_not_before_there_is_a_generator() -> None:
    found = recipe_space(space={"stages": {"tsm": {"stages": {"tsm": TSM, "dm": DM}}, "dm": {"stages": {"dm": DM}}}})
    with_tsm, without = found.check()
    asha = SchedulerConfig("asha", first=40, factor=2)
    assert milestones(asha, without) == [40, 80, 160, 320]
    assert shareable(with_tsm) == [160] and shareable(without) == []
    assert milestones(asha, with_tsm) == [320, 480]
    assert milestones(SchedulerConfig("median", first=100), without) == [100, 200, 300, 320]
    assert milestones(SchedulerConfig(), with_tsm) == [480]


def test_a_directory_belongs_to_one_sweep_whose_budget_may_grow(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    keep_definition(store, recipe_space())
    assert read_definition(store) == parse_definition("tiny", SAID)
    refuse_other_definition(store, recipe_space(budget={"trials": 3}, keep="all", trials={"concurrent": 2}))
    with pytest.raises(UserError, match=r"holds a sweep with another space\.partition\.k .*another --run-dir"):
        refuse_other_definition(store, recipe_space(space={"partition.k": [1, 2], "size": SAID["space"]["size"]}))
    with pytest.raises(UserError, match="holds a sweep with another recipe"):
        refuse_other_definition(store, recipe_space(recipe="toy2d"))
