"""Every number that a recipe, a sweep, a service or a described cluster may hold, at values that make no sense."""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from msd_ray.data import load_data
from msd_ray.data.registry import FORMATS, format_named
from msd_ray.errors import UserError
from msd_ray.objectives import OBJECTIVES
from msd_ray.recipes import Recipe, load_recipe
from msd_ray.recipes.yaml_files import validated
from msd_ray.runs.nodes import ClusterDescription, NodeKind
from msd_ray.runs.plan import make_plan
from msd_ray.runs.plan_description import describe
from msd_ray.serving.service.config import ServeConfig, parse_config
from msd_ray.sweep.definition import Definition, parse_definition

NEGATIVE = ("p_mean",)
"""May be below 0."""
TINY = str(Path(__file__).parents[1] / "faults" / "tiny.yaml")


def numbers(cls: Any, prefix: str = "") -> Iterator[str]:
    """The paths of a dataclass at which a number may stand, those in lists by their place."""
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        yield from within(hints[f.name], f"{prefix}{f.name}")


def within(hint: Any, path: str) -> Iterator[str]:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        yield from numbers(hint, f"{path}.")
    elif hint in (int, float):
        yield path
    elif origin is tuple and str not in inner:
        yield f"{path}[]"
    elif origin in (types.UnionType, typing.Union):
        for one in inner:
            yield from within(one, path)


RECIPE = [
    *(path for path in numbers(Recipe) if not path.startswith("network")),
    *(f"stages.dm.{path}" for path in numbers(typing.get_type_hints(Recipe)["stages"].__args__[1])),
    *(f"students.0.{path}" for path in numbers(typing.get_type_hints(Recipe)["students"].__args__[1])),
]
NETWORKS = {
    "toy2d": ["network.width", "network.blocks"],
    "digits": list(numbers(type(load_recipe("digits").network), "network.")),
}
OPTIONS = [(name, path) for name, cls in OBJECTIVES.items() for path in numbers(cls) if not path.startswith("noise")]

DATA = [(name, path) for name in FORMATS for path in numbers(format_named(name)) if not path.endswith("[]")]


def said(path: str, value: str) -> str:
    """An override; in a list the value stands twice, as betas and workers want it."""
    return f"{path[:-2]}=[{value},{value}]" if path.endswith("[]") else f"{path}={value}"


def refused(read: Callable[[], Any]) -> str:
    """What is said of an input, in one line; nothing where it is taken."""
    try:
        read()
    except UserError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message
    return message


def recipe_refused(name: str, *overrides: str) -> str:
    return refused(lambda: load_recipe(name, list(overrides)))


@pytest.mark.parametrize("path", RECIPE)
@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "-1", "1e30", "1" + 30 * "0"])
def test_no_number_of_a_recipe_is_nan_infinite_negative_or_beyond_reason(path: str, value: str) -> None:
    if value != "-1" or not path.endswith(NEGATIVE):
        message = recipe_refused("toy2d", said(path, value))
        assert message.startswith(path.removesuffix("[]")), message


@pytest.mark.parametrize(("name", "path"), [(name, path) for name, paths in NETWORKS.items() for path in paths])
@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "-1", "0", "1e30", "1" + 30 * "0"])
def test_nor_of_a_network(name: str, path: str, value: str) -> None:
    if (path, value) != ("network.dropout", "0"):
        assert recipe_refused(name, said(path, value)).startswith("network")


@pytest.mark.parametrize(("objective", "path"), OPTIONS)
@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "-1", "1e30"])
def test_nor_of_an_objective(objective: str, path: str, value: str) -> None:
    if value != "-1" or path not in NEGATIVE:
        message = recipe_refused("toy2d", f"stages.dm.objective={objective}", f"stages.dm.options.{path}={value}")
        assert message.startswith(f"stages.dm.options.{path}"), message


@pytest.mark.parametrize(("name", "path"), DATA)
@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "-1", "1e30"])
def test_nor_of_a_data_set(name: str, path: str, value: str) -> None:
    folder = ["data.folder=/data"] if "folder" in typing.get_type_hints(format_named(name)) else []
    message = recipe_refused("toy2d", f"data.name={name}", *folder, f"data.options.{path}={value}")
    assert message.startswith(f"data.options.{path}"), message


@pytest.mark.parametrize("path", [*RECIPE, *NETWORKS["toy2d"]])
def test_a_zero_is_refused_or_what_is_planned_with_it_is_sane(path: str) -> None:
    overrides = [said(path, "0"), *([] if path == "partition.k" else ["partition.kind=sequential"])]
    if recipe_refused(TINY, *overrides):
        return
    recipe = load_recipe(TINY, overrides)
    plan = make_plan(recipe, load_data(recipe.data), lambda: pytest.fail("no features are needed"))
    assert describe(plan)["students"] and plan.largest.images > 0
    assert all(math.isfinite(sigma) for sigma in plan.recipe.noise.grid().tolist())


SERVICE, SWEEP, NODE = list(numbers(ServeConfig)), list(numbers(Definition)), list(numbers(NodeKind))


def nested(path: str, value: Any) -> dict[str, Any]:
    first, _, rest = path.partition(".")
    return {first: nested(rest, value) if rest else value}


def read(path: str, value: Any) -> Any:
    """What a definition, a configuration or a description with that value comes to."""
    if path in NODE:
        return validated(ClusterDescription, "x.yaml", {"nodes": [{"name": "a", path: value}]})
    if path in SERVICE:
        return parse_config(nested(path, value))
    asked = {"name": "x", "recipe": "digits", "space": {"partition.k": [1]}, "metrics": {"fid": "min"}}
    return parse_definition("x.yaml", asked | nested(path, value))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, 10**30])
@pytest.mark.parametrize("path", [*SERVICE, *SWEEP, *NODE])
def test_nor_of_a_service_a_sweep_or_a_node(path: str, value: Any) -> None:
    message = refused(lambda: read(path, value))
    assert path in message and any(said in message for said in ("finite", "greater than", "less than")), message


def test_there_are_numbers_to_try() -> None:
    """The paths above are found by looking; this is what the looking finds."""
    assert {"seed", "noise.rho", "teacher.ema.halflife", "cluster.price", "students.0.blocks"} <= {*RECIPE}
    assert {"stages.dm.clip", "stages.dm.betas[]", "cluster.workers_per_student[]", "cluster.max_slots"} <= {*RECIPE}
    assert {("toy2d", "seed"), ("idx", "size")} <= {*DATA}
    assert ("sida", "head_weight") in OPTIONS and ("dm", "first") in OPTIONS
    assert {"limits.seconds", "gateway.port", "keep"} <= {*SERVICE} and {"budget.hours", "scheduler.first"} <= {*SWEEP}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages.dm.options.first=0.99"], "stages.dm.options: first (0.99) must be at most last (0.98)"),
        (["stages.dm.options.last=2"], "stages.dm.options.last: input should be less than or equal to 1, not 2"),
        (["stages.adm.options.first=0.99"], "stages.adm.options: first (0.99) must be at most last (0.98)"),
        (
            ["seed=12345678901234567890123"],
            "seed: input should be less than or equal to 9223372036854775807, not 123456",
        ),
        (["seed=2020-13-45"], "seed: '2020-13-45' is not a YAML value"),
        (["seed=2020-12-24"], "seed: 2020-12-24 is a date, not text or a number; put it in quotes"),
        (["name=!!bool x"], "name: '!!bool x' is not a YAML value"),
        (["training.checkpoint_every=1", "stages.dm.images=3_200_000"], "set it to at least 33"),
    ],
)
def test_what_else_makes_no_sense(overrides: list[str], message: str) -> None:
    assert message in recipe_refused("digits", *overrides)
