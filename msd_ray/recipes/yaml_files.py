"""YAML as people write it, and what may come of it: text, finite numbers, lists and mappings."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml

from msd_ray.errors import UserError, one_line
from msd_ray.validation import made_of, shortened

DEEPEST, MOST = 32, 100_000
"""Levels and values of a file. More is an alias inside of what it names, or a joke."""
_Kind = TypeVar("_Kind")
_NOT_YAML = (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What PyYAML raises: for syntax, for values such as the date 2020-13-01 and tags such as `!!bool x`, for depth."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-3 as a string; people who write it mean a number. Nor do they mean a key that they write twice
    to hold its last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := next((key for key, times in keys.items() if times > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(path: str) -> dict[str, Any]:
    """What a YAML file says. Raises UserError, which names the file, where it cannot be read or says something that no
    configuration can hold."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 (byte {error.start + 1}): save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return read_mapping(path, text)


def read_mapping(name: str, text: str) -> dict[str, Any]:
    """What YAML says. Raises UserError, which calls the file `name`, as `read_yaml`."""
    try:
        raw = yaml.load(text, _Loader)
    except _NOT_YAML as error:
        raise UserError(f"{name} is not YAML: {one_line(error)}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{name} must hold a mapping of keys to values")
    check_plain(raw, name)
    return raw


def read_value(path: str, text: str) -> Any:
    """What the text of `path=text` on a command line means. Raises UserError where it means nothing."""
    try:
        value = yaml.load(text, _Loader)
    except _NOT_YAML:
        raise UserError(f"{path}: {shortened(text)} is not a YAML value") from None
    check_plain({path: value})
    return value


def validated(kind: type[_Kind], name: str, raw: dict[str, Any]) -> _Kind:
    """A dataclass from plain data. Raises UserError, which calls the data `name`, where a key is unknown or a value is
    wrong."""
    check_plain(raw, name)
    try:
        return made_of(kind, raw)
    except ValueError as error:
        raise UserError(": ".join(filter(None, [name, str(error)]))) from None


def check_plain(raw: Any, name: str = "") -> None:
    """Raises UserError, which calls the data `name`, for a number that is not finite (also in the options of a user's
    own code, whose types only that knows), for a value that is neither text nor a number nor a list or mapping of
    these, and for data without end."""
    for count, (path, value, depth) in enumerate(_walk(raw)):
        where = ": ".join(part for part in (name, path) if part)
        if depth > DEEPEST or count > MOST:
            raise UserError(f"{name or 'the data'} is nested too deeply, or too long: does an alias name itself?")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{where}: must be a finite number, not {value}")
        if not (value is None or isinstance(value, str | int | float | list | tuple | dict)):
            raise UserError(f"{where}: {value} is a {type(value).__name__}, not text or a number; put it in quotes")


def _walk(raw: Any) -> Iterator[tuple[str, Any, int]]:
    """Every value with its dotted path and its depth, in order; keys that are not text count as values."""
    waiting = [("", raw, 0)]
    while waiting:
        path, value, depth = waiting.pop()
        yield path, value, depth
        several = value if isinstance(value, list | tuple) else ()
        inner = value.items() if isinstance(value, dict) else list(enumerate(several))
        below = [(f"{path}.{key}" if path else str(key), item, depth + 1) for key, item in inner]
        waiting += [*reversed(below), *((path, key, depth) for key, _ in inner if not isinstance(key, str))]
