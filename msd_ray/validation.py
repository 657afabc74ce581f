"""Dataclasses of plain data: pydantic refuses unknown keys, wrong types, NaN and numbers out of range."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

if TYPE_CHECKING:  # a bare GPU machine, where programs make configurations and nobody reads files, has no pydantic
    from pydantic import TypeAdapter, ValidationError

_Kind = TypeVar("_Kind")
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")


def made_of(kind: type[_Kind], raw: Mapping[str, Any], at: str = "") -> _Kind:
    """A dataclass or pydantic model of what JSON can say, with those in it. at: the path of `raw`, for messages. Raises
    ValueError, in one line, where a key is unknown, which names the nearest that is known, or a value is wrong."""
    from pydantic import ValidationError

    try:
        made: _Kind = _adapter(kind).validate_json(json.dumps([raw]), strict=True)[0]
    except ValidationError as error:
        raise ValueError(_problem(kind, error, at)) from None
    return made


def in_range(made: _Kind) -> _Kind:
    """The dataclass itself, made from a file that nobody checked. Raises ValueError where a number is out of range."""
    from pydantic import ValidationError

    try:
        _adapter(type(made)).validate_python((asdict(made),))  # type: ignore[call-overload]
    except ValidationError as error:
        raise ValueError(_problem(type(made), error)) from None
    return made


def shortened(value: Any) -> str:
    """As it stands in a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _adapter(kind: Any) -> "TypeAdapter[Any]":
    """Of a tuple, since pydantic lets only what holds a dataclass be configured from outside."""
    from pydantic import TypeAdapter

    return TypeAdapter(tuple[kind], config={"extra": "forbid", "allow_inf_nan": False})


def _problem(kind: type[Any], error: "ValidationError", at: str = "") -> str:
    """What is wrong with which value; a misspelt key first, since the right one is then missing as well."""
    first = min(error.errors(include_url=False), key=lambda found: found["type"] not in _UNKNOWN)
    place, given = _keys_of(kind, first["loc"][1:]), first["input"]
    path = _dotted(at, place)
    if first["type"] in _UNKNOWN:
        known = [_dotted(at, [*place[:-1], name]) for name in _types_at(kind, place[:-1])]
        near = get_close_matches(path, known, n=1, cutoff=0.5)
        return f"unknown key {path}" + (f"; did you mean {near[0]}?" if near else "")
    message = first["msg"].removeprefix("Value error, ")
    tells = given is None or isinstance(given, str | int | float) or first["type"].endswith("_type")
    shown = f", not {shortened(given)}" if tells else ""
    return f"{path}: {message[:1].lower()}{message[1:]}{shown}" if path else message


def _keys_of(kind: Any, place: Sequence[str | int]) -> list[str | int]:
    """The place without the names of classes, which pydantic puts where a value may be of one of several types."""
    keys = list[str | int]()
    for part in place:
        if part != kind.__name__:
            keys.append(part)
            kind = _with_keys(_types(kind).get(str(part))) or kind
    return keys


def _types_at(kind: Any, place: Sequence[str | int]) -> dict[str, Any]:
    """The keys, with their types, at this place in a value of type `kind`. Places in lists and mappings are alike."""
    for part in place:
        kind = _with_keys(_types(kind).get(str(part))) or kind
    return _types(kind)


def _with_keys(kind: Any) -> Any:
    """The dataclass or pydantic model that a type is or holds, None where there is none."""
    return next((each for each in (kind, *get_args(kind)) if is_dataclass(each) or hasattr(each, "model_fields")), None)


def _types(kind: Any) -> dict[str, Any]:
    if is_dataclass(kind):
        return get_type_hints(kind)
    return {field.alias or name: field.annotation for name, field in kind.model_fields.items()}


def _dotted(at: str, parts: Sequence[str | int]) -> str:
    return ".".join([*filter(None, [at]), *map(str, parts)])
