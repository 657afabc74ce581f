"""A kind of network of a user's own, named as module:Class."""

import json
from dataclasses import replace
from pathlib import Path

import own_parts
import pytest
import torch

from msd_ray.conditions import Classes, PartitionConfig, fit
from msd_ray.ensemble import Ensemble, Member, save_ensemble
from msd_ray.errors import CorruptError, UserError
from msd_ray.networks import DenoiserSpec, StudentSize
from msd_ray.own_code import VARIABLE, refuse_strange
from msd_ray.recipes import Recipe, load_recipe, parse_recipe
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_directory import keep_recipe, recipe_of
from msd_ray.storage import Store

KIND = "own_parts:PlainConv"
SPEC = DenoiserSpec(own_parts.PlainConv(width=8), (1, 8, 8), 10)


def recipe(**network: object) -> Recipe:
    stages = {"dm": {"objective": "dm", "images": 320, "batch": 16}}
    return parse_recipe({"name": "own", "network": {"kind": KIND, "width": 16, **network}, "stages": stages})


def saved(where: Path, spec: DenoiserSpec = SPEC) -> str:
    partition = fit(PartitionConfig(1), Classes.numbered(10))
    member = Member(0, spec, 80.0, 640, spec.build().state_dict())
    save_ensemble(Store(str(where)), {"name": "own"}, partition, tuple("0123456789"), [member])
    return str(where)


def test_a_recipe_names_it_and_students_are_cut_from_it(tmp_path: Path) -> None:
    made = RunContext(replace(recipe(), student=StudentSize(0.5)), Store(str(tmp_path))).plan
    assert made.teacher.network == own_parts.PlainConv(width=16)
    assert made.student.network == own_parts.PlainConv(width=8)
    assert recipe().to_json()["network"] == {"kind": KIND, "width": 16, "blocks": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 3}, "unknown key network.depth"),
        ({"widthh": 3}, "unknown key network.widthh; did you mean network.width?"),
        ({"width": "wide"}, "network.width: input should be a valid integer, not 'wide'"),
        ({"kind": "own_parts:Missing"}, "network.kind: 'own_parts:Missing' cannot be imported: .*no attribute"),
        ({"kind": "no_such_module:Kind"}, "network.kind: 'no_such_module:Kind' cannot be imported: No module named"),
        (
            {"kind": "own_parts:folded_digits"},
            "network.kind: .* is not a dataclass with the methods build, cut, misfit",
        ),
        ({"kind": "cnn"}, "network.kind: there is no 'cnn', only unet, mlp, .*, or module:Class for your own"),
        ({"kind": 3}, "network.kind: say which: unet, mlp, .*, or module:Class for your own"),
    ],
)
def test_what_is_no_network_is_refused_in_one_line(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        recipe(**change)
    assert "\n" not in str(refused.value)


def test_it_does_not_fit_points() -> None:
    with pytest.raises(UserError, match="PlainConv is for images"):
        _ = RunContext(parse_recipe({**recipe().to_json(), "data": {"name": "toy2d"}}), Store("unused")).plan


def test_a_description_of_it_is_read_only_where_its_module_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = json.loads(json.dumps(SPEC.to_json()))
    with pytest.raises(UserError, match=f"names {KIND} as its kind of network, .*set {VARIABLE}=own_parts$"):
        DenoiserSpec.from_json(raw)
    monkeypatch.setenv(VARIABLE, "other, own_parts")
    assert DenoiserSpec.from_json(raw) == SPEC
    with pytest.raises(CorruptError, match="unknown key depth"):
        DenoiserSpec.from_json({**raw, "network": {**raw["network"], "depth": 1}})


def test_an_ensemble_of_it_generates_where_its_module_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    uri = saved(tmp_path)
    with pytest.raises(UserError, match=f"set {VARIABLE}=own_parts$"):
        Ensemble.load(uri)
    monkeypatch.setenv(VARIABLE, "own_parts")
    made = Ensemble.load(uri).generate([3, 4], [0, 1])
    assert made.shape == (2, 1, 8, 8) and made.std() > 0


def test_a_package_allows_its_modules_and_no_other_of_that_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "mine")
    refuse_strange("mine.parts:Network", "kind", "it")
    with pytest.raises(UserError, match=f"set {VARIABLE}=mine,mines$"):
        refuse_strange("mines:Network", "kind", "it")


@pytest.mark.parametrize("name", ["mine,other:X", "mine:X\nall is well", "mine\x1b[2J:X", "mine:X.y", ":X"])
def test_a_name_that_is_no_name_is_not_repeated_as_advice(name: str) -> None:
    with pytest.raises(UserError, match="is not of the form module:Class") as refused:
        refuse_strange(name, "kind", "it")
    assert str(refused.value).isprintable() and VARIABLE not in str(refused.value)


def test_a_command_may_read_what_its_own_recipe_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    keep_recipe(store, recipe())
    assert recipe_of(store) == recipe()
    monkeypatch.setenv(VARIABLE, "")  # another command, to which nobody gave the recipe
    with pytest.raises(UserError, match=f"recipe.json: the recipe names {KIND} as its network.kind"):
        recipe_of(store)


def test_the_kind_can_be_changed_on_the_command_line() -> None:
    assert load_recipe("digits", [f"network.kind={KIND}", "network.width=8"]).network == own_parts.PlainConv(width=8)
