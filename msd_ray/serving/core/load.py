"""Reading the configuration: YAML with overrides from the command line, as recipes are."""

from dataclasses import fields, is_dataclass
from typing import Any

from msd_ray.errors import UserError
from msd_ray.recipes.keys import present, suggestion
from msd_ray.recipes.load import validated, with_overrides
from msd_ray.recipes.plain import check_plain, read_yaml
from msd_ray.serving.core.config import ServeConfig


def load_config(file: str | None, overrides: list[str] | None = None) -> ServeConfig:
    """From a YAML file, or the defaults, with `key=value` overrides. Raises UserError for what is wrong in it."""
    raw: dict[str, Any] = {}
    if file:
        raw = read_yaml(file)
    return parse_config(with_overrides(raw, overrides or []))


def parse_config(raw: dict[str, Any]) -> ServeConfig:
    """From plain data. Raises UserError as `load_config`."""
    check_plain(raw)
    known = set(_paths(ServeConfig(), ""))
    for path in present(raw, ""):
        if path not in known:
            raise UserError(f"unknown key {path}{suggestion(path, known)}")
    return validated(ServeConfig, "", raw)


def _paths(config: Any, prefix: str) -> list[str]:
    found = []
    for f in fields(config):
        value = getattr(config, f.name)
        found += [f"{prefix}{f.name}", *(_paths(value, f"{prefix}{f.name}.") if is_dataclass(value) else [])]
    return found
