"""Which recipes may go on in a run directory."""

import json
from pathlib import Path

import pytest

from msd_ray.errors import UserError
from msd_ray.recipes import Recipe, load_recipe
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_directory import keep_recipe, recipe_of, refuse_other_recipe
from msd_ray.storage import Store


@pytest.mark.parametrize(
    "change",
    [
        "cluster.pool.max_replicas=3",
        "cluster.policy=sequential",
        "cluster.teacher=local",
        "evaluation.samples=99",
        "training.compile=true",
        "training.recompute=true",
        "training.deterministic=false",
    ],
)
def test_what_leaves_the_weights_alone_may_change(change: str, tmp_path: Path) -> None:
    keep_recipe(Store(str(tmp_path)), load_recipe("digits"))
    refuse_other_recipe(Store(str(tmp_path)), load_recipe("digits", [change]))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("seed=1", r"seed \(there 0, here 1\)"),
        ("training.precision=tf32", r"training\.precision \(there fp32, here tf32\)"),
        ("training.shards=2", r"training\.shards \(there 1, here 2\)"),
        ("cluster.pool.wire=bf16", r"cluster\.pool\.wire \(there fp32, here bf16\)"),
        ("cluster.pool.deterministic=false", r"cluster\.pool\.deterministic \(there True, here False\)"),
    ],
)
def test_what_changes_weights_is_refused_and_named(change: str, named: str, tmp_path: Path) -> None:
    keep_recipe(Store(str(tmp_path)), load_recipe("digits"))
    with pytest.raises(UserError, match=f"holds a run with another {named}; choose another --run-dir"):
        refuse_other_recipe(Store(str(tmp_path)), load_recipe("digits", [change]))


# Recipes that were kept before a method had an optimizer of its own, and before stages could be shared.


def older(store: Store, recipe: Recipe) -> None:
    """As it was written then: DMD2's values for every stage, spelled out, the kind of optimizer not."""
    raw = recipe.to_json()
    for stage in raw["stages"].values():
        betas = stage["betas"] or [0.9, 0.999]
        stage |= {"betas": betas, "weight_decay": 0.01, "clip": 10.0, "fake_first": 0}
        del stage["optimizer"], stage["fake_clip_value"], stage["shared"], stage["afresh"]
    store.write("recipe.json", json.dumps(raw).encode())


def planned(name: str) -> Recipe:
    return RunContext.of(name, [], None).plan.recipe


def test_an_older_run_goes_on_with_its_own_tsm_for_each_student(tmp_path: Path) -> None:
    """The same command goes on; an explicit value is another run."""
    store = Store(str(tmp_path))
    raw = planned("digits-small").to_json()
    assert raw["stages"]["tsm"]["shared"] is True
    for stage in raw["stages"].values():
        del stage["shared"], stage["afresh"]
    store.write("recipe.json", json.dumps(raw).encode())
    again = RunContext.of("digits-small", [], str(tmp_path)).plan
    assert again.recipe.stages["tsm"].shared is False and not again.ensembles[0].trunks
    refuse_other_recipe(store, again.recipe)
    other = RunContext.of("digits-small", ["stages.tsm.shared=true"], str(tmp_path)).plan.recipe
    with pytest.raises(UserError, match=r"another stages\.tsm\.shared \(there False, here True\)"):
        refuse_other_recipe(store, other)


def test_an_older_run_goes_on_where_its_methods_are_trained_as_before(tmp_path: Path) -> None:
    older(Store(str(tmp_path)), load_recipe("digits"))
    refuse_other_recipe(Store(str(tmp_path)), planned("digits"))


def test_an_older_run_of_a_method_that_is_trained_otherwise_today_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    older(store, load_recipe("digits-sid"))
    assert recipe_of(store).stages["sid"].optimizer == "adamw"
    with pytest.raises(UserError, match=r"holds a run with another stages\.sid\.\w+ \(.*; choose another --run-dir"):
        refuse_other_recipe(store, planned("digits-sid"))


def test_an_older_run_of_sida_can_still_be_looked_at(tmp_path: Path) -> None:
    """Its GAN joined at once where the recipe did not say when."""
    store = Store(str(tmp_path))
    older(store, load_recipe("digits-sida", ["stages.sida.options={}"]))
    assert RunContext.of_run(store, []).plan.recipe.stages["sida"].options == {"gan_from": 0}


def test_what_is_kept_of_a_run_says_what_its_recipe_left_to_the_methods(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    keep_recipe(store, planned("digits-sid"))
    stage = json.loads(store.read("recipe.json"))["stages"]["sid"]
    assert (stage["optimizer"], stage["betas"], stage["clip"], stage["fake_first"]) == ("adam", [0.0, 0.999], 0.0, 0)
    assert not any(value is None for value in stage.values())
