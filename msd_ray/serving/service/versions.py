"""The versions that are served, and how the traffic is split between them. Plain data, without weights."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from msd_ray.conditions import Condition, Conditions, ConditionsSpec, Embedded, Table
from msd_ray.conditions.partition import prepared
from msd_ray.conditions.prompt_map import PromptMap, map_of
from msd_ray.conditions.rules import Rule, rule_of


@dataclass(frozen=True)
class StudentFacts:
    """index, sigma_low, sigma_high: what it owns, beside the conditions of its part. nimg: images it was trained on.
    sha256: of its weights."""

    index: int
    sigma_low: float
    sigma_high: float
    parameters: int
    nimg: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """A noise level for JSON, which cannot express an infinite one."""
        return {**asdict(self), "sigma_high": None if math.isinf(self.sigma_high) else self.sigma_high}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "StudentFacts":
        high = math.inf if raw["sigma_high"] is None else raw["sigma_high"]
        return cls(**{**raw, "sigma_high": high})


@dataclass(frozen=True)
class Prepared:
    """condition: as students are to be asked for it. part: that owns it. margin: by which a prompt belongs there.
    position: of a prompt on the version's map, empty where it has no plane."""

    condition: Condition | Embedded
    part: int
    margin: float = 0.0
    position: tuple[float, ...] = ()


@dataclass(frozen=True)
class Version:
    """One ensemble. conditions_spec: what is needed to make its conditions. owners: the part of each; rule: instead of
    it, what gives any prompt its part. parts: the content hash of each part, which is the version of its students.
    intervals: students of a part. evaluations: of networks, per image. recipe: its name. has_pictures: whether its
    samples can be sent as pictures."""

    name: str
    uri: str
    kind: str
    conditions_spec: ConditionsSpec
    owners: tuple[int, ...]
    intervals: int
    parts: tuple[str, ...]
    sample_shape: tuple[int, ...]
    evaluations: int
    recipe: str
    students: tuple[StudentFacts, ...]
    rule: dict[str, Any] | None = None
    has_pictures: bool = True

    @cached_property
    def conditions(self) -> Conditions:
        """Raises UserError where they are a user's own that cannot be imported."""
        return self.conditions_spec.make()

    @cached_property
    def labels(self) -> list[str]:
        """Of each condition."""
        return self.conditions.labels(range(len(self.owners)))

    def prepared(self, condition: Condition) -> Prepared:
        """A condition, which is as `Conditions.id_of` gives it, on its way to the part that owns it. Of a prompt this
        may take a pass of a text encoder."""
        if not isinstance(condition, str):
            return Prepared(condition, self.owners[condition])
        (asked,), (place,), (vector,) = prepared(self._rule, self.conditions, [condition])
        position = self.map.position_of(vector) if self.map else ()
        return Prepared(asked, place.part, place.margin or 0.0, position)

    @cached_property
    def map(self) -> PromptMap | None:
        """Of its prompts, where it takes prompts."""
        return map_of(self._rule) if self.rule else None

    @cached_property
    def _rule(self) -> Rule:
        return rule_of(self.rule or {})

    def ids_of(self, part: int) -> list[int]:
        """The conditions that a part owns, rising."""
        return Table(self.owners).ids_of(part).tolist()

    def students_of(self, part: int) -> tuple[int, ...]:
        """The students of a part, lowest noise levels first."""
        return tuple(range(part * self.intervals, (part + 1) * self.intervals))

    def to_json(self) -> dict[str, Any]:
        students = [student.to_json() for student in self.students]
        return {**asdict(self), "conditions_spec": self.conditions_spec.to_json(), "students": students}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Version":
        students = tuple(map(StudentFacts.from_json, raw["students"]))
        tuples = {key: tuple(raw[key]) for key in ("owners", "parts", "sample_shape")}
        return cls(
            **{
                **raw,
                **tuples,
                "conditions_spec": ConditionsSpec.from_json(raw["conditions_spec"]),
                "students": students,
            }
        )


@dataclass(frozen=True)
class Traffic:
    """versions: the newest first. weights: of each, of which at least one is positive."""

    versions: tuple[Version, ...]
    weights: tuple[float, ...]

    @property
    def served(self) -> list[Version]:
        """The versions that get any, the newest first."""
        return [version for version, weight in zip(self.versions, self.weights, strict=True) if weight]

    def version(self, name: str) -> Version | None:
        """The version of that name; without a name the one with the most traffic, the newest of equals."""
        if not name:
            return max(zip(self.weights, self.versions, strict=True), key=lambda pair: pair[0])[1]
        return next((version for version in self.versions if version.name == name), None)

    @property
    def before(self) -> Version | None:
        """The version to roll back to: of all but the newest the one with the most traffic, the newest of equals."""
        others = zip(self.weights[1:], self.versions[1:], strict=True)
        return max(others, key=lambda pair: pair[0], default=(0.0, None))[1]

    def chosen(self, seed: int) -> Version:
        """The version that makes the image of a seed, unless the request names one. A seed keeps its version while the
        weights stay; as a version's weight grows it only gains seeds."""
        left = _share(seed) * sum(self.weights)
        for version, weight in zip(self.versions, self.weights, strict=True):
            left -= weight
            if left < 0:
                return version
        return self.versions[-1]

    def with_version(self, version: Version, weight: float) -> "Traffic":
        """The traffic with one more version, which gets `weight` (0 to 1); the others share the rest as before."""
        others = [(v, w) for v, w in zip(self.versions, self.weights, strict=True) if v.name != version.name]
        rest = sum(w for _, w in others)
        scaled = [(1 - weight) * w / rest if rest else 0.0 for _, w in others]
        return Traffic((version, *(v for v, _ in others)), (weight if rest else 1.0, *scaled))

    def kept(self, most: int) -> "Traffic":
        """The traffic without the oldest of the versions that get none, so that at most `most` are left, if possible.
        The newest stays, since it may still be starting before it gets traffic."""
        keep = list(zip(self.versions, self.weights, strict=True))
        for pair in reversed(keep[1:]):
            if len(keep) > most and not pair[1]:
                keep.remove(pair)
        return replace(self, versions=tuple(v for v, _ in keep), weights=tuple(w for _, w in keep))

    def to_json(self) -> dict[str, Any]:
        return {"versions": [version.to_json() for version in self.versions], "weights": list(self.weights)}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Traffic":
        return cls(tuple(Version.from_json(version) for version in raw["versions"]), tuple(raw["weights"]))


def content_hash(content: Any) -> str:
    """A hash of JSON data, twelve hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _share(seed: int) -> float:
    """In [0, 1), the same for the same seed and as good as evenly spread."""
    digest = hashlib.blake2b(str(seed).encode(), digest_size=8, person=b"msd.v1.share").digest()
    return int.from_bytes(digest, "big") / 2**64
