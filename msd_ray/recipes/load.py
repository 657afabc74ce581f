"""Reading recipes: shipped ones by name, others by path, with overrides from the command line."""

import os
from collections.abc import Iterator
from importlib import resources
from typing import Any

from msd_ray.data.registry import of_today
from msd_ray.errors import UserError
from msd_ray.objectives import SUM, objective_class
from msd_ray.own_code import allow, is_own, refuse_strange
from msd_ray.recipes.schema import Recipe
from msd_ray.recipes.smoke import shrunk
from msd_ray.recipes.yaml_files import check_plain, read_mapping, read_value, read_yaml, validated
from msd_ray.teachers import FOUND, TRAINED
from msd_ray.training.config import StageConfig
from msd_ray.validation import made_of

CODE = (
    ("network", "kind"),
    ("data", "name"),
    ("teacher", "source"),
    ("codec", "kind"),
    ("conditions", "kind"),
    ("partition", "kind"),
)
"""The keys that may name a user's own code, which commands on directories run as well."""
_FIRST = ("network.kind=", "data.name=")
"""Overrides that are applied before others, since they replace what the recipe says beside them."""


def load_recipe(name_or_path: str, overrides: list[str] | None = None) -> Recipe:
    """The recipe of that shipped name or YAML file, with `key=value` overrides applied.

    Raises UserError, in one line, where there is no such recipe, a key is unknown or a value is of the wrong type.
    """
    raw = with_overrides(_read(name_or_path), overrides or [])
    smoke = raw.pop("smoke", False)
    if not isinstance(smoke, bool):
        raise UserError("smoke: must be true or false")
    recipe = parse_recipe(raw)
    return shrunk(recipe) if smoke else recipe


def with_overrides(raw: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """`raw`, changed in place by each `key=value`, in order but for `_FIRST`. Raises UserError where one cannot be
    applied."""
    for override in sorted(overrides, key=lambda override: not override.startswith(_FIRST)):
        _apply(raw, override)
    return raw


def parse_recipe(raw: Any, imports: bool = True) -> Recipe:
    """A recipe from plain data. Raises UserError as `load_recipe` does.

    imports: whether the user named it, so that its own code is trusted. A recipe that lies in a run or an ensemble may
    come from somebody else: its objectives are not imported, and other code only where `msd_ray.own_code` allows it.
    """
    if not isinstance(raw, dict):
        raise UserError("a recipe must be a mapping of keys to values")
    check_plain(raw)
    if isinstance(raw.get("data"), dict):
        raw = raw | {"data": of_today(raw["data"])}
    if isinstance(raw.get("teacher"), dict):
        raw = raw | {"teacher": _brought(raw["teacher"])}
    for key, name in _code_of(raw):
        if imports:
            allow(name)
        else:
            refuse_strange(name, key, "the recipe")
    recipe = validated(Recipe, "", raw)
    for name, stage in recipe.stages.items():
        if imports or not is_own(stage.objective):
            _check_objective(name, stage)
    return recipe


def _brought(teacher: dict[str, Any]) -> dict[str, Any]:
    """With `from: PATH` as a source and its option, of which it is the short form."""
    if "from" not in teacher:
        return teacher
    path, options = teacher["from"], teacher.get("options") or {}
    if teacher.get("source", TRAINED) not in (TRAINED, FOUND) or not isinstance(options, dict):
        raise UserError("teacher.from says where the teacher comes from; leave out teacher.source")
    if not isinstance(path, str) or not path:
        raise UserError("teacher.from must be the path of a file or directory")
    rest = {key: value for key, value in teacher.items() if key != "from"}
    return rest | {"source": FOUND, "options": options | {"path": os.path.abspath(os.path.expanduser(path))}}


def _code_of(raw: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The keys that name code of the user's own, objectives apart, and what they name."""
    for part, key in CODE:
        inner = raw.get(part)
        if isinstance(inner, dict) and is_own(name := str(inner.get(key))):
            yield f"{part}.{key}", name


def shipped() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(p.name[:-5] for p in resources.files(__package__).iterdir() if p.name.endswith(".yaml"))


def _read(name_or_path: str) -> dict[str, Any]:
    """The recipe merged with all that it is based on."""
    name, passed, merged = name_or_path, dict[str, str](), dict[str, Any]()
    while True:
        key = name if name in shipped() else os.path.realpath(name)
        if key in passed:
            ring = " -> ".join([*passed.values(), name])
            raise UserError(f"{name_or_path}: its base leads back to itself: {ring}")
        passed[key] = name
        raw = _named(_read_one(name))
        base = raw.pop("base", None)
        merged = _merged(raw, merged)
        if base is None:
            return merged
        name = str(base)


def _read_one(name_or_path: str) -> dict[str, Any]:
    if name_or_path in shipped():
        return read_mapping(name_or_path, resources.files(__package__).joinpath(f"{name_or_path}.yaml").read_text())
    if os.path.isfile(name_or_path):
        return read_yaml(name_or_path)
    known = ", ".join(name for name in shipped() if "-" not in name)
    raise UserError(
        f"no recipe {name_or_path}: give a YAML file, or one of {known} or their variants, such as digits-trunk"
    )


def _named(raw: Any) -> Any:
    """With text for keys: YAML takes the number of a student for a number, but paths are text."""
    return {str(key): _named(value) for key, value in raw.items()} if isinstance(raw, dict) else raw


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `changes`, key by key; stages are replaced as a whole, for their order matters."""
    merged = dict(base)
    for key, value in changes.items():
        known = merged.get(key)
        if isinstance(known, dict) and isinstance(value, dict) and key != "stages":
            value = _merged(known, value)
        merged[key] = value
    return merged


def _apply(raw: dict[str, Any], override: str) -> None:
    path, equals, value = override.partition("=")
    if not equals or not path:
        raise UserError(f"{override!r} is not of the form key=value")
    *parents, last = path.split(".")
    stages = raw.get("stages")
    if parents[:1] == ["stages"] and parents[1:2] and isinstance(stages, dict) and parents[1] not in stages:
        raise UserError(f"unknown key {path}; the recipe's stages are {', '.join(stages)}")
    here = raw
    for key in parents:
        here = here.setdefault(key, {})
        if not isinstance(here, dict):
            raise UserError(f"unknown key {path}; {key} holds a single value")
    given = read_value(path, value)
    if f"{path}=" in _FIRST and here.get(last) != given:
        here.clear()  # what is said of another kind of network, or of other data, means nothing for this one
    here[last] = given


def _check_objective(name: str, stage: StageConfig) -> None:
    path = f"stages.{name}.options"
    if "noise" in stage.options:
        raise UserError(f"unknown key {path}.noise; noise is a key of the recipe, the same for all stages")
    try:
        made_of(objective_class(stage.objective), stage.options, path)
        if stage.objective == SUM:
            for term, options in stage.options["terms"].items():
                own = {key: value for key, value in options.items() if key != "weight"}
                made_of(objective_class(term), own, f"{path}.terms.{term}")
    except ValueError as error:
        raise UserError(str(error)) from None
    except UserError as error:
        raise UserError(f"stages.{name}.objective: {error}") from None
