"""Which keys a recipe may have, so that a misspelt one is refused by name rather than ignored."""

import dataclasses
import difflib
import typing
from collections.abc import Iterator
from typing import Any

from msd_ray.data import DataConfig
from msd_ray.errors import UserError
from msd_ray.networks import KINDS, StudentSize, kind_class
from msd_ray.objectives import objective_class
from msd_ray.own_code import is_own
from msd_ray.recipes.schema import Recipe
from msd_ray.training.config import StageConfig
from msd_ray.training.teacher_trainer import TeacherConfig


def check_keys(raw: dict[str, Any], imports: bool) -> None:
    """Raises UserError for the first key that no recipe has, naming the nearest that it could have. imports: whether
    options of `module:Class` are looked up there; otherwise they pass."""
    known = set(_known(Recipe, raw, "", imports))
    for path in present(raw, ""):
        if path not in known:
            raise UserError(f"unknown key {path}{suggestion(path, known)}")


def suggestion(path: str, known: set[str]) -> str:
    """What to add to a message on an unknown key; nothing where none is near."""
    near = difflib.get_close_matches(path, sorted(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def present(raw: dict[str, Any], prefix: str) -> Iterator[str]:
    """All dotted paths, the longest first, since a full path is what tells best which key was meant."""
    for key, value in raw.items():
        if isinstance(value, dict):
            yield from present(value, f"{prefix}{key}.")
        yield f"{prefix}{key}"


def _known(cls: Any, raw: dict[str, Any], prefix: str, imports: bool = True) -> Iterator[str]:
    """The dotted paths of a dataclass; `raw` tells which stages there are and of which kind a network is."""
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        path, value = f"{prefix}{f.name}", raw.get(f.name)
        inner: dict[str, Any] = value if isinstance(value, dict) else {}
        yield path
        hint = hints[f.name]
        if dataclasses.is_dataclass(hint):
            yield from _known(hint, inner, f"{path}.")
        elif f.name == "network":
            yield from _known_of_network(inner, f"{path}.")
        elif cls in (DataConfig, TeacherConfig) and f.name == "options":  # only the user's own code knows them
            yield from present(inner, f"{path}.")
        elif f.name == "stages":
            yield from _known_stages(inner, f"{path}.", imports)
        elif f.name == "students":
            for number, size in inner.items():
                yield f"{path}.{number}"
                yield from _known(StudentSize, size if isinstance(size, dict) else {}, f"{path}.{number}.")


def _known_of_network(network: dict[str, Any], prefix: str) -> Iterator[str]:
    kind = str(network.get("kind"))
    if kind in KINDS or is_own(kind):
        yield from _known(kind_class(kind), network, prefix)
    else:  # there is no such kind, which is refused later
        yield from present(network, prefix)


def _known_stages(stages: dict[str, Any], prefix: str, imports: bool) -> Iterator[str]:
    for name, stage in stages.items():
        yield f"{prefix}{name}"
        inner: dict[str, Any] = stage if isinstance(stage, dict) else {}
        yield from _known(StageConfig, inner, f"{prefix}{name}.")
        objective, options = str(inner.get("objective", "dm")), inner.get("options")
        if imports or not is_own(objective):
            yield from (f"{prefix}{name}.options.{option}" for option in _options(objective))
        elif isinstance(options, dict):
            yield from present(options, f"{prefix}{name}.options.")


def _options(objective: str) -> list[str]:
    """The fields of an objective; none where there is no such objective, which is refused later."""
    try:
        found = objective_class(objective)
    except UserError:
        return []
    return [f.name for f in dataclasses.fields(found) if f.name != "noise"]
