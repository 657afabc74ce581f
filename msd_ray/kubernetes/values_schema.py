"""values.schema.json of the Helm chart. What a recipe and a sweep's definition may say comes from their own models, so
that helm refuses a wrong key inside of them as well."""

from typing import Any

from pydantic import TypeAdapter

from msd_ray.kubernetes.values import ChartValues
from msd_ray.recipes import Recipe
from msd_ray.sweep.definition import Definition

Schema = dict[str, Any]
_OWN_NETWORK: Schema = {
    "type": "object",
    "required": ["kind"],
    "properties": {"kind": {"type": "string", "pattern": ":"}},
}
"""A kind of network in a user's own module, which alone knows its keys."""


def values_schema() -> Schema:
    """The schema as plain data."""
    made = ChartValues.model_json_schema(by_alias=True)
    models = made["$defs"]
    models |= _strict("Recipe", Recipe, partial=True) | _strict("Definition", Definition, partial=False)
    models["Recipe"]["properties"]["network"]["anyOf"].append(_OWN_NETWORK)
    models["Recipe"]["properties"] |= {"base": {"type": "string", "minLength": 1}, "smoke": {"type": "boolean"}}
    models["TeacherConfig"]["properties"]["from"] = {"type": "string", "minLength": 1}
    train, sweep = models["Train"]["properties"], models["Sweep"]["properties"]
    recipe, definition = {"$ref": "#/$defs/Recipe"}, {"$ref": "#/$defs/Definition"}
    train["recipe"] = _with(train["recipe"], anyOf=[{"type": "string", "minLength": 1}, recipe])
    sweep["recipe"] = _with(sweep["recipe"], **recipe)
    sweep["definition"] = _with(sweep["definition"], anyOf=[{"maxProperties": 0}, definition])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def _strict(name: str, kind: Any, partial: bool) -> Schema:
    """Definitions of a dataclass and of those in it, which refuse other keys. partial: it may leave out any, for a
    recipe may have a base that says them."""
    schema = TypeAdapter(kind).json_schema()
    models: Schema = schema.pop("$defs")
    models[name] = schema
    for model in models.values():
        model["additionalProperties"] = False
        if partial:
            model.pop("required", None)
    return {key: _any_of(model) for key, model in models.items()}


def _any_of(schema: Any) -> Any:
    """Alternatives need not exclude each other: without its kind, a network may be one of several."""
    if isinstance(schema, list):
        return [_any_of(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _any_of(value) for key, value in schema.items() if not ("oneOf" in schema and key == "discriminator")}
    return made | {"anyOf": made.pop("oneOf")} if "oneOf" in made else made


def _with(field: Schema, **type_of: Any) -> Schema:
    """A field of another type, with its description and default."""
    return {key: value for key, value in field.items() if key in ("default", "description", "title")} | type_of
