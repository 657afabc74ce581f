"""Which data sets there are. A new format is a dataclass of its options with a `load`, in one file, and one line in
`FORMATS`; or a function in a user's own module, which recipes name as `module:function`."""

import os
from collections.abc import Hashable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import lru_cache
from importlib import import_module
from typing import Any, Protocol

from msd_ray.data.source import DataSet
from msd_ray.errors import UserError, one_line
from msd_ray.own_code import imported, is_own
from msd_ray.validation import made_of


class Format(Hashable, Protocol):
    """A frozen dataclass: its fields are what `data.options` may say. One that reads files has a `folder`, with a
    default where it can do without."""

    def load(self) -> DataSet:
        """The data set, the same one every time. Raises UserError where it cannot be had."""
        ...


FORMATS = {
    "digits": "digits:Digits",
    "toy2d": "toy2d:Toy2d",
    "arrays": "arrays:Arrays",
    "idx": "idx:Idx",
    "cifar": "cifar:Cifar",
    "folder": "image_folder:ImageFolder",
    "edm-zip": "edm_zip:EdmZip",
    "parquet": "parquet:Parquet",
    "webdataset": "webdataset:WebDataset",
    "imagenet64": "imagenet64:ImageNet64",
    "emoji": "emoji:Emoji",
    "emoji-names": "emoji:NamedEmoji",
    "latents": "latents:Latents",
    "clusters": "clusters:Clusters",
    "super-resolution": "super_resolution:SuperResolution",
    "levels": "levels:Levels",
}
"""module:class, both in this package. Imported when it is asked for: formats import libraries for their files, and most
processes read one format, or none."""
_SAID = ("digits", "toy2d")
"""Whose samples follow from what a recipe says."""
_ONCE = ("classes", "samples", "seed")
"""Options of toy2d that recipes said beside `name` before there were options."""


def format_named(name: str) -> type[Any]:
    """The class of a built-in format."""
    module, _, attribute = FORMATS[name].partition(":")
    found: type[Any] = getattr(import_module(f"msd_ray.data.{module}"), attribute)
    return found


@dataclass(frozen=True)
class DataConfig:
    """name: which data set, or `module:function` for one of the user's own, a function of `options` that returns a
    `DataSet`. folder: of a format that reads or keeps files, on storage that all nodes see. options: of the format;
    those that are not said get its defaults. flip: whether trainers see half of the images mirrored left to right."""

    name: str = "digits"
    folder: str = ""
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    flip: bool = False

    def __post_init__(self) -> None:
        """Raises UserError where the options are not those of the format."""
        if is_own(self.name):
            return
        if self.name not in FORMATS:
            raise UserError(
                f"data.name: there is no data set {self.name!r}, only {', '.join(FORMATS)}, or module:function"
            )
        object.__setattr__(self, "options", self._completed())

    @property
    def settings(self) -> dict[str, Any]:
        """What the format is made with."""
        return self.options | ({"folder": self.folder} if self.folder else {})

    def _completed(self) -> dict[str, Any]:
        known = {each.name: each for each in fields(format_named(self.name))}
        wanted = "folder" in known and known["folder"].default is MISSING
        if (wanted and not self.folder) or (self.folder and "folder" not in known) or "folder" in self.options:
            fault = "needs a folder, where its files lie" if wanted else "reads no files, so has no folder"
            raise UserError(f"data.folder: {self.name} {fault}")
        if self.options and not known:
            raise UserError(f"data.options: {self.name} has none")
        try:
            made = made_of(format_named(self.name), self.settings, "data.options")
        except ValueError as error:
            raise UserError(str(error)) from None
        return {key: value for key, value in asdict(made).items() if key != "folder"}


def of_today(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe says of its data, as it is said today: toy2d's options stood beside `name` once, and recipes of
    other data that a run directory keeps name them too."""
    once = {key: raw[key] for key in _ONCE if key in raw}
    rest = {key: value for key, value in raw.items() if key not in once}
    options = rest.get("options", {})
    if once and raw.get("name") == "toy2d" and isinstance(options, dict):
        return rest | {"options": options | once}
    return rest


def load_data(config: DataConfig) -> DataSet:
    """The data set that `config` describes; the same one every time. Raises UserError where there is none."""
    made = _own(config) if is_own(config.name) else _built_in(config)
    if config.flip and len(made.shape) != 3:
        raise UserError(f"data.flip: only images can be mirrored, and {config.name} has samples of {list(made.shape)}")
    return replace(made, train=replace(made.train, flips=config.flip))


def fingerprint(config: DataConfig) -> str:
    """Of the samples, where `config` alone does not say which they are; empty, and nothing is loaded, where it does."""
    return "" if config.name in _SAID else load_data(config).fingerprint


def identity(config: DataConfig) -> dict[str, Any]:
    """What names the samples in the keys of caches."""
    said = {"name": config.name} | ({} if is_own(config.name) else config.options)
    found = fingerprint(config)
    return said | ({"fingerprint": found} if found else {}) | ({"flip": True} if config.flip else {})


def _built_in(config: DataConfig) -> DataSet:
    made: Format = format_named(config.name)(**config.settings)
    return made.load() if config.name in _SAID else _loaded(made, _last_changed(config.folder))


@lru_cache(maxsize=2)
def _loaded(made: Format, last_changed: int) -> DataSet:
    """Files are opened once in a process: to list or unpack them takes long where they are many."""
    return made.load()


def _last_changed(path: str) -> int:
    """When a file, or what lies in a folder, was changed last, in nanoseconds; 0 where that is not on a disk here."""
    try:
        return max(os.stat(each).st_mtime_ns for each in (path, *(entry.path for entry in os.scandir(path))))
    except OSError:
        return os.stat(path).st_mtime_ns if os.path.isfile(path) else 0


def _own(config: DataConfig) -> DataSet:
    make = imported(config.name, "data.name")
    try:
        made = make(**config.settings)
    except Exception as error:  # whatever the user's module does
        raise UserError(f"data.name: {config.name} gives no data set: {one_line(error)}") from None
    if not isinstance(made, DataSet) or not made.fingerprint:
        raise UserError(f"data.name: {config.name} must return a msd_ray.data.DataSet with a fingerprint")
    return made
