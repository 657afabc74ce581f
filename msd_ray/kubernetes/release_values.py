"""Turns a user's arguments into the chart's values: for a training run, a sweep, an ensemble."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from msd_ray.errors import UserError
from msd_ray.kubernetes.values import SHARED, URI
from msd_ray.recipes import load_recipe
from msd_ray.recipes.load import shipped
from msd_ray.storage import Store, copy_bundle
from msd_ray.sweep.definition import load_definition
from msd_ray.sweep.recipe_space import RecipeSpace

Values = dict[str, Any]


def release_name(name: str) -> str:
    """A name that Kubernetes accepts. Raises UserError if no valid character is left."""
    made = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-")
    if not made:
        raise UserError(f"{name!r} makes no name for Kubernetes: give --name")
    return made


def training(values: Values, recipe: str, overrides: list[str]) -> tuple[str, Values]:
    """A run's name, and its values with the whole recipe in them, so that no pod needs the file. Raises UserError if
    the recipe is wrong."""
    loaded = load_recipe(recipe, overrides)
    name = release_name(loaded.name)
    return name, _with(values, "train", {"recipe": _plain(loaded.to_json()), "name": name})


def sweeping(values: Values, file: str) -> tuple[str, Values]:
    """A sweep's name and values. Raises UserError if its definition or its recipe is wrong."""
    definition = RecipeSpace.of(load_definition(file)).definition  # which checks the recipes of all its trials
    name = release_name(definition.name)
    said = {"definition": _plain(dataclasses.asdict(definition)), "name": name}
    if definition.recipe not in shipped():
        said["recipe"] = _plain(load_recipe(definition.recipe).to_json())
    return name, _with(values, "sweep", said)


def serving(values: Values, config: str) -> Values:
    """The values of a service. config: what `serve config` prints."""
    return _with(values, "serve", {"config": config})


def where_pods_see_it(ensemble: Store, copy_to: str) -> str:
    """The URI of an ensemble for pods: of a copy if it lies on a disk of this machine.

    Raises UserError if pods cannot see it and copy_to names no place for a copy; errors of copying are passed on.
    """
    if _is_shared(ensemble.uri):
        return ensemble.uri
    if not copy_to:
        raise UserError(
            f"{ensemble.uri} is on a disk of this machine, which no pod sees: give --copy-to, such as "
            f"s3://bucket/ensembles/{Path(ensemble.uri).parent.name}, and it is copied there first"
        )
    if not _is_shared(copy_to):
        raise UserError(f"--copy-to {copy_to}: no pod sees that either; give a URI such as s3://bucket/ensembles/mine")
    target = Store(copy_to)
    copy_bundle(ensemble, target)
    return target.uri


def _is_shared(uri: str) -> bool:
    return bool(re.match(URI, uri)) or uri.startswith(f"{SHARED}/")


def _with(values: Values, section: str, said: Values) -> Values:
    return {**values, section: {**values.get(section, {}), "enabled": True, **said}}


def _plain(value: Any) -> Any:
    """As YAML says it: lists for tuples, text for keys."""
    return json.loads(json.dumps(value))
