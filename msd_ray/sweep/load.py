"""Reading a sweep's definition: YAML in, one validated `Definition` out."""

import dataclasses
import os
from typing import Any

from msd_ray.errors import UserError
from msd_ray.recipes.keys import suggestion
from msd_ray.recipes.load import validated
from msd_ray.recipes.plain import read_yaml
from msd_ray.sweep.schema import Budget, Definition, Scheduler, Searcher, Trials

SECTIONS = {"budget": Budget, "searcher": Searcher, "scheduler": Scheduler, "trials": Trials}


def load_definition(path: str) -> Definition:
    """The definition in a YAML file. Raises UserError, in one line, where there is none, a key is unknown or a value is
    wrong."""
    if not os.path.isfile(path):
        raise UserError(f"no file {path}: give a sweep's definition, such as tune_configs/digits-quick.yaml")
    return parse_definition(path, read_yaml(path))


def parse_definition(name: str, raw: dict[str, Any]) -> Definition:
    """A definition from plain data, which errors call `name`. Raises UserError as `load_definition`."""
    _check_keys(name, raw)
    return validated(Definition, name, raw)


def _check_keys(name: str, raw: dict[str, Any]) -> None:
    """Raises UserError for the first key that no definition has."""
    known = {f.name for f in dataclasses.fields(Definition)}
    known |= {f"{section}.{f.name}" for section, cls in SECTIONS.items() for f in dataclasses.fields(cls)}
    given = list(raw)
    for section in SECTIONS:
        inner = raw.get(section)
        given += [f"{section}.{key}" for key in inner] if isinstance(inner, dict) else []
    for key in given:
        if key not in known:
            raise UserError(f"{name}: unknown key {key}{suggestion(str(key), known)}")
