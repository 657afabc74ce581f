"""Routes the images of a request to students, so that each is made once and returned in its place."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msd_ray.conditions import Condition, Embedded
from msd_ray.ensemble import SampleId
from msd_ray.errors import UserError
from msd_ray.serving.protocol.formats import FLOAT32, PNG
from msd_ray.serving.protocol.refusal import Refusal, wrong
from msd_ray.serving.service.request import ImageRequest
from msd_ray.serving.service.versions import Prepared, Traffic, Version

_LABELS = "GetEnsemble lists the labels"


@dataclass(frozen=True)
class Item:
    """One image of a request. index: its place there. condition, margin, position: as of `Prepared`."""

    index: int
    condition: Condition | Embedded
    seed: int
    margin: float = 0.0
    position: tuple[float, ...] = ()

    @property
    def class_id(self) -> int:
        """0 for a prompt."""
        return self.condition if isinstance(self.condition, int) else 0

    @property
    def prompt(self) -> str:
        """Empty for a class."""
        if isinstance(self.condition, Embedded):
            return self.condition.text
        return self.condition if isinstance(self.condition, str) else ""


@dataclass(frozen=True)
class PartRequest:
    """The images that one part of one version makes for a request. format: of all of them."""

    version: Version
    part: int
    items: tuple[Item, ...]
    format: str

    @property
    def sample_ids(self) -> list[SampleId]:
        """Condition and seed of each item."""
        return [(item.condition, item.seed) for item in self.items]

    def alone(self) -> "list[PartRequest]":
        """One request for each image."""
        return [PartRequest(self.version, self.part, (item,), self.format) for item in self.items]


Key = tuple[str, Condition]
"""A version's name, and a condition that it is asked for."""


@dataclass(frozen=True)
class Wanted:
    """One image of a request and the version that is to make it. condition: as `Conditions.id_of` gives it. format: of
    the image."""

    version: Version
    condition: Condition
    seed: int
    format: str

    @property
    def key(self) -> Key:
        return self.version.name, self.condition


def wanted_of(image_request: ImageRequest, traffic: Traffic) -> list[Wanted]:
    """The images in the order of the request. Raises Refusal for a class, label, prompt, version or format that there
    is not."""
    found = []
    for index, (asked, seed) in enumerate(zip(image_request.conditions, image_request.seeds, strict=True)):
        version = _version(image_request, traffic, seed)
        condition = _id_of(asked, version, f"conditions[{index}]")
        found.append(Wanted(version, condition, seed, _format(image_request.format, version)))
    return found


def part_requests(wanted: Sequence[Wanted], prepared: Mapping[Key, Prepared]) -> list[PartRequest]:
    """One request for each part that owns any of the conditions. prepared: each of them, by its key."""
    groups: dict[tuple[str, int], list[Item]] = defaultdict(list)
    first: dict[str, Wanted] = {}
    for index, one in enumerate(wanted):
        found = prepared[one.key]
        first.setdefault(one.version.name, one)
        item = Item(index, found.condition, one.seed, found.margin, found.position)
        groups[one.version.name, found.part].append(item)
    return [
        PartRequest(first[name].version, part, tuple(items), first[name].format)
        for (name, part), items in groups.items()
    ]


def version_named(traffic: Traffic, name: str) -> Version:
    """The version of that name; without a name the main one. Raises Refusal if there is none."""
    version = traffic.version(name)
    if version is None:
        known = ", ".join(v.name for v in traffic.versions)
        raise Refusal("NOT_FOUND", f"no version {name[:64]!r} is served, only {known}", "version")
    return version


def _version(image_request: ImageRequest, traffic: Traffic, seed: int) -> Version:
    return version_named(traffic, image_request.version) if image_request.version else traffic.chosen(seed)


def _id_of(asked: Condition, version: Version, field: str) -> Condition:
    try:
        return version.conditions.id_of(asked)
    except UserError as error:
        by_label = isinstance(asked, str) and not version.conditions.is_open
        raise wrong(field, f"{error}; {_LABELS}" if by_label else str(error)) from None


def _format(format: str, version: Version) -> str:
    if not version.has_pictures and format not in ("", FLOAT32):
        raise wrong("format", f"these samples have no pictures: ask for {FLOAT32}")
    return format or (PNG if version.has_pictures else FLOAT32)
