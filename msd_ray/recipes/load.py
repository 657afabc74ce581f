"""Reading recipes: shipped ones by name, others by path, with overrides from the command line."""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from msd_ray.errors import UserError
from msd_ray.objectives import objective_class
from msd_ray.recipes.keys import check_keys
from msd_ray.recipes.schema import Recipe

_Kind = TypeVar("_Kind")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-3 as a string; people who write it mean a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load_recipe(name_or_path: str, overrides: list[str] | None = None) -> Recipe:
    """The recipe of that shipped name or YAML file, with `key=value` overrides applied in order.

    Raises UserError, in one line, where there is no such recipe, a key is unknown or a value is of the wrong type.
    """
    return parse_recipe(with_overrides(_read(name_or_path), overrides or []))


def with_overrides(raw: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """`raw`, changed in place by each `key=value`. Raises UserError where one cannot be applied."""
    for override in overrides:
        _apply(raw, override)
    return raw


def parse_recipe(raw: dict[str, Any]) -> Recipe:
    """A recipe from plain data. Raises UserError as `load_recipe` does."""
    check_keys(raw)
    try:
        recipe: Recipe = TypeAdapter(Recipe).validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        raise UserError(one_line(error)) from None
    except (TypeError, ValueError) as error:
        raise UserError(f"the recipe holds a value that is not plain data: {error}") from None
    _check_objectives(recipe)
    return recipe


def shipped() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(p.name[:-5] for p in resources.files(__package__).iterdir() if p.name.endswith(".yaml"))


def _read(name_or_path: str) -> dict[str, Any]:
    if name_or_path in shipped():
        text = resources.files(__package__).joinpath(f"{name_or_path}.yaml").read_text()
    elif Path(name_or_path).is_file():
        text = Path(name_or_path).read_text()
    else:
        raise UserError(f"no recipe {name_or_path}: give a YAML file or one of {', '.join(shipped())}")
    raw = _named(read_mapping(name_or_path, text))
    base = raw.pop("base", None)
    return raw if base is None else _merged(_read(str(base)), raw)


def _named(raw: Any) -> Any:
    """With text for keys: YAML takes the number of a student for a number, but paths are text."""
    return {str(key): _named(value) for key, value in raw.items()} if isinstance(raw, dict) else raw


def read_mapping(name: str, text: str) -> dict[str, Any]:
    """What YAML says. Raises UserError, which calls the file `name`, where that is no mapping."""
    try:
        raw = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{name} must hold a mapping of keys to values")
    return raw


def validated(kind: type[_Kind], name: str, raw: dict[str, Any]) -> _Kind:
    """A dataclass from plain data, without NaN and infinity. Raises UserError, which calls the data `name`, where a
    value is wrong; unknown keys are the caller's to refuse."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(raw, allow_nan=False), strict=True)
    except ValidationError as error:
        raise UserError(f"{name}: {one_line(error)}") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} holds a value that is not plain data: {error}") from None


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
    if parents[:1] == ["stages"] and parents[1:2] and parents[1] not in raw.get("stages", {}):
        raise UserError(f"unknown key {path}; the recipe's stages are {', '.join(raw.get('stages', {}))}")
    here = raw
    for key in parents:
        here = here.setdefault(key, {})
        if not isinstance(here, dict):
            raise UserError(f"unknown key {path}; {key} holds a single value")
    try:
        given = yaml.load(value, _Loader)
    except yaml.YAMLError:
        raise UserError(f"{path}: {value!r} is not a YAML value") from None
    if path == "network.kind" and here.get(last) != given:
        here.clear()  # the numbers of another kind of network mean nothing in this one
    here[last] = given


def one_line(error: ValidationError) -> str:
    """What is wrong with which value."""
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"] if part not in ("unet", "mlp"))
    message = first["msg"].removeprefix("Value error, ")
    given = first["input"]
    shown = f", not {given!r}" if isinstance(given, str | int | float | bool) or given is None else ""
    return f"{path}: {message[:1].lower()}{message[1:]}{shown}" if path else message


def _check_objectives(recipe: Recipe) -> None:
    for name, stage in recipe.stages.items():
        try:
            TypeAdapter(objective_class(stage.objective)).validate_json(json.dumps(stage.options), strict=True)
        except ValidationError as error:
            raise UserError(f"stages.{name}.options.{one_line(error)}") from None
        except UserError as error:
            raise UserError(f"stages.{name}.objective: {error}") from None
