"""Reading the configuration: YAML with overrides from the command line, as recipes are."""

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from msd_ray.errors import UserError
from msd_ray.recipes.keys import present, suggestion
from msd_ray.recipes.load import one_line, read_mapping, with_overrides
from msd_ray.serving.core.config import ServeConfig


def load_config(file: str | None, overrides: list[str] | None = None) -> ServeConfig:
    """From a YAML file, or the defaults, with `key=value` overrides. Raises UserError for what is wrong in it."""
    raw: dict[str, Any] = {}
    if file:
        try:
            raw = read_mapping(file, Path(file).read_text())
        except OSError as error:
            raise UserError(f"cannot read {file}: {error.strerror}") from None
    return parse_config(with_overrides(raw, overrides or []))


def parse_config(raw: dict[str, Any]) -> ServeConfig:
    """From plain data. Raises UserError as `load_config`."""
    known = set(_paths(ServeConfig(), ""))
    for path in present(raw, ""):
        if path not in known:
            raise UserError(f"unknown key {path}{suggestion(path, known)}")
    try:
        config: ServeConfig = TypeAdapter(ServeConfig).validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        raise UserError(one_line(error)) from None
    return config


def _paths(config: Any, prefix: str) -> list[str]:
    found = []
    for f in fields(config):
        value = getattr(config, f.name)
        found += [f"{prefix}{f.name}", *(_paths(value, f"{prefix}{f.name}.") if is_dataclass(value) else [])]
    return found
