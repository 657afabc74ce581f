"""Which data sets there are."""

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from msd_ray.data import arrays, digits, toy2d
from msd_ray.data.source import DataSet
from msd_ray.errors import UserError, one_line
from msd_ray.own_code import imported, is_own
from msd_ray.ranges import Seed, within

NAMES = ("digits", "toy2d", "arrays")


@dataclass(frozen=True)
class DataConfig:
    """name: which data set, or `module:function` for one of the user's own, a function of `options` that returns a
    `DataSet`. classes, samples, seed: of toy2d, which is drawn at random. folder: of arrays (`msd_ray.data.arrays`), on
    storage that all nodes see."""

    name: str = "digits"
    classes: Annotated[int, within(ge=1, le=10**5)] = 8
    samples: Annotated[int, within(ge=1, le=10**7)] = 8192
    seed: Seed = 0
    folder: str = ""
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.samples < self.classes:
            raise ValueError(f"samples ({self.samples}) must be at least one for each of the {self.classes} classes")
        if self.name not in NAMES and not is_own(self.name):
            raise ValueError(f"there is no data set {self.name!r}, only {', '.join(NAMES)}, or module:function")
        if self.options and not is_own(self.name):
            raise ValueError(f"options are those of a module:function; {self.name} has none")
        if bool(self.folder) != (self.name == "arrays"):
            raise ValueError("folder goes with name: arrays, and with no other")


def load_data(config: DataConfig) -> DataSet:
    """The data set that `config` describes; the same one every time. Raises UserError where there is none."""
    if config.name == "digits":
        return digits.load()
    if config.name == "toy2d":
        return toy2d.load(config.classes, config.samples, config.seed)
    if config.name == "arrays":
        return arrays.load(config.folder)
    return _own(config)


def fingerprint(config: DataConfig) -> str:
    """Of the samples, where `config` alone does not say which they are; empty, and nothing is loaded, where it does."""
    return "" if config.name in ("digits", "toy2d") else load_data(config).fingerprint


def identity(config: DataConfig) -> dict[str, Any]:
    """What names the samples in the keys of caches."""
    said = {key: value for key, value in asdict(config).items() if key not in ("folder", "options")}
    found = fingerprint(config)
    return said | ({"fingerprint": found} if found else {})


def _own(config: DataConfig) -> DataSet:
    make = imported(config.name, "data.name")
    try:
        made = make(**config.options)
    except Exception as error:  # whatever the user's module does
        raise UserError(f"data.name: {config.name} gives no data set: {one_line(error)}") from None
    if not isinstance(made, DataSet) or not made.fingerprint:
        raise UserError(f"data.name: {config.name} must return a msd_ray.data.DataSet with a fingerprint")
    return made
