"""What a recipe says of conditions, and how they are made of it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any

from msd_ray.conditions.conditions import Classes, Conditions, Listed, Own
from msd_ray.errors import CorruptError, UserError, one_line
from msd_ray.own_code import imported, is_own, refuse_strange
from msd_ray.validation import made_of

CLASSES = "classes"
OPEN = {"prompts": "prompts:PromptOptions"}
"""Kinds whose options are those of a dataclass, module:class in this package: its `conditions(labels)` makes them.
Imported when one is asked for."""


@dataclass(frozen=True)
class ConditionsConfig:
    """kind: what a condition is: `classes` are the labels of the data set, `prompts` are texts that networks take as a
    vector, and `module:Class` is one of the user's own, which is called with the labels and `options` and returns
    conditions. options: of prompts (docs/prompts.md) or of the user's class."""

    kind: str = CLASSES
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.kind not in (CLASSES, *OPEN) and not is_own(self.kind):
            known = ", ".join((CLASSES, *OPEN))
            raise ValueError(f"there is no kind {self.kind!r}, only {known}, or your own module:Class")
        if self.options and self.kind == CLASSES:
            raise ValueError(f"options are those of prompts or of a module:Class; {self.kind} has none")
        if self.kind in OPEN:
            said = asdict(made_of(_options_of(self.kind), self.options, "options"))
            kept = {key: value for key, value in said.items() if value != ()}  # caches are older than these
            object.__setattr__(self, "options", kept)


def _options_of(kind: str) -> type[Any]:
    module, _, name = OPEN[kind].partition(":")
    found: type[Any] = getattr(import_module(f"msd_ray.conditions.{module}"), name)
    return found


def identity(config: ConditionsConfig, labels: Callable[[], tuple[str, ...]]) -> list[Any]:
    """What names them in the keys of caches; nothing for class numbers, which the data set names. labels: those of the
    data set, called where they matter."""
    found = [make_conditions(config, labels()).fingerprint] if config.kind in OPEN else []
    return [] if config.kind == CLASSES else [asdict(config), *found]


def make_conditions(config: ConditionsConfig, labels: tuple[str, ...]) -> Conditions:
    """Those that `config` describes. Raises UserError where a user's own cannot be had."""
    if config.kind == CLASSES:
        return Classes(labels)
    if config.kind in OPEN:
        conditions: Conditions = made_of(_options_of(config.kind), config.options).conditions(labels)
        return conditions
    make = imported(config.kind, "conditions.kind")
    try:
        made: Listed = make(labels, **config.options)
    except Exception as error:  # whatever the user's module does
        raise UserError(f"conditions.kind: {config.kind} gives no conditions: {one_line(error)}") from None
    if made.n != len(labels):
        raise UserError(f"conditions.kind: {config.kind} has {made.n} conditions, the data set {len(labels)}")
    return Own(made, labels)


@dataclass(frozen=True)
class ConditionsSpec:
    """What is needed to make conditions, stored beside the weights that know them. labels: of the data set."""

    config: ConditionsConfig
    labels: tuple[str, ...]

    def make(self) -> Conditions:
        """Raises UserError as `make_conditions`, and for a user's own that this process may not import."""
        refuse_strange(self.config.kind, "kind of conditions", "the description of an ensemble or teacher")
        return make_conditions(self.config, self.labels)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self.config), "labels": list(self.labels)}

    @classmethod
    def from_json(cls, raw: Any) -> "ConditionsSpec":
        """The inverse of `to_json`, of what a directory has; without kind and options it is of classes. Raises
        CorruptError for anything else."""
        try:
            kind, options = str(raw.get("kind", CLASSES)), dict(raw.get("options", {}))
            return cls(ConditionsConfig(kind, options), tuple(str(label) for label in raw["labels"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptError(f"not a description of conditions: {error}") from error
