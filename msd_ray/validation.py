"""Dataclasses of plain data: pydantic refuses unknown keys, wrong types, NaN and numbers out of range."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

if TYPE_CHECKING:  # a bare GPU machine, where programs make configurations and nobody reads files, has no pydantic
    from pydantic import TypeAdapter, ValidationError

_Kind = TypeVar("_Kind")
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")


def made_of(kind: type[_Kind], raw: Mapping[str, Any], at: str = "") -> _Kind:
    """A dataclass of what JSON can say, with the dataclasses in it. at: the path of `raw`, for messages. Raises
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


def first_problem(error: "ValidationError", skip: int = 0, at: str = "") -> str:
    """What is wrong with which value, unknown keys first. skip: parts of the value's place that are left out."""
    first = _first(error)
    path = _dotted(at, first["loc"][skip:])
    message = first["msg"].removeprefix("Value error, ")
    given = first["input"]
    tells = given is None or isinstance(given, str | int | float) or first["type"].endswith("_type")
    shown = f", not {shortened(given)}" if tells else ""
    return f"{path}: {message[:1].lower()}{message[1:]}{shown}" if path else message


def shortened(value: Any) -> str:
    """As it stands in a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _adapter(kind: Any) -> "TypeAdapter[Any]":
    """Of a tuple, since pydantic lets only what holds a dataclass be configured from outside."""
    from pydantic import TypeAdapter

    return TypeAdapter(tuple[kind], config={"extra": "forbid", "allow_inf_nan": False})


def _problem(kind: type[Any], error: "ValidationError", at: str = "") -> str:
    first = _first(error)
    if first["type"] not in _UNKNOWN:
        return first_problem(error, skip=1, at=at)
    *parents, key = first["loc"][1:]
    path, known = _dotted(at, [*parents, key]), [_dotted(at, [*parents, name]) for name in _fields_at(kind, parents)]
    near = get_close_matches(path, known, n=1, cutoff=0.5)
    return f"unknown key {path}" + (f"; did you mean {near[0]}?" if near else "")


def _first(error: "ValidationError") -> Any:
    """What a misspelt key says elsewhere, such as that the right one is missing, comes after it."""
    return sorted(error.errors(include_url=False), key=lambda found: found["type"] not in _UNKNOWN)[0]


def _fields_at(kind: Any, place: Sequence[str | int]) -> list[str]:
    """The fields of the dataclass at this place in a value of type `kind`; those in lists and mappings are alike."""
    for part in place:
        kind = get_type_hints(kind)[str(part)] if is_dataclass(kind) else next(filter(is_dataclass, get_args(kind)))
    return [field.name for field in fields(kind)]


def _dotted(at: str, parts: Sequence[str | int]) -> str:
    return ".".join([*filter(None, [at]), *map(str, parts)])
