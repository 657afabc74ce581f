"""The facts about an ensemble that the service needs, read from its manifest."""

from typing import Any

from msd_ray.codecs import load_codec
from msd_ray.ensemble import Description, read_description
from msd_ray.errors import UserError
from msd_ray.networks import DenoiserSpec
from msd_ray.serving.service.versions import StudentFacts, Version, content_hash
from msd_ray.storage import Store, check_sizes


def describe(uri: str, name: str = "") -> Version:
    """The ensemble at a URI as a version; without a name it is named by its content.

    Raises UserError if there is none, it is of a newer format, or its text encoder cannot be had; CorruptError if it is
    damaged as far as the manifest and the sizes of files tell. Each replica verifies every byte of what it loads.
    """
    known = read_description(Store(uri))
    check_sizes(known.store, known.manifest)
    spec = DenoiserSpec.from_json(_student(known, 0)["spec"])
    if known.partition.rule and known.conditions.width != spec.classes:
        raise UserError(f"{uri}: what makes vectors of its prompts has another width than its students take")
    partition, parts = known.partition, tuple(part_hash(known, part) for part in range(known.partition.parts))
    return Version(
        name=name or content_hash([parts, partition.to_json(), known.labels]),
        uri=uri,
        kind=partition.kind,
        conditions_spec=known.conditions_spec,
        owners=() if partition.rule else partition.router.owners,
        intervals=partition.intervals,
        parts=parts,
        sample_shape=spec.sample_shape,
        evaluations=known.sampling.nfe,
        recipe=str(known.recipe.get("name", "")),
        students=tuple(_facts(known, index) for index in range(partition.k)),
        rule=partition.rule.to_json() if partition.rule else None,
        has_pictures=load_codec(known.codec).picture_shape(spec.sample_shape) is not None,
    )


def part_hash(known: Description, part: int) -> str:
    """A hash that changes if and only if the part's weights, its sampling, its codec or its batching change."""
    students = [_student(known, index) for index in known.partition.students_of(part)]
    asked = [known.sampling.to_json(), known.partition.borders, *([said] if (said := known.codec.to_json()) else [])]
    asked += [] if known.batching == "exact" else [known.batching]
    each = [[s["spec"], s["sigma_init"], _sha256(known, s), *_adapter(known, s)] for s in students]
    return content_hash([asked, each])


def _facts(known: Description, index: int) -> StudentFacts:
    student, (low, high) = _student(known, index), known.partition.interval_of(index)
    return StudentFacts(
        index=index,
        sigma_low=low,
        sigma_high=high,
        parameters=int(student["parameters"]),
        nimg=int(student["nimg"]),
        sha256=_sha256(known, student),
    )


def _student(known: Description, index: int) -> dict[str, Any]:
    student: dict[str, Any] = known.manifest.body["students"][index]
    return student


def _adapter(known: Description, student: dict[str, Any]) -> list[Any]:
    """What its file holds, and the hash of the weights that this changes; empty for a student without an adapter."""
    if "adapter" not in student:
        return []
    return [student["adapter"], known.manifest.files[str(known.manifest.body["base"])].sha256]


def _sha256(known: Description, student: dict[str, Any]) -> str:
    return known.manifest.files[str(student["file"])].sha256
