"""Converts the contract's messages to the service's classes, and back."""

from msd_ray.conditions.prompt_map import PromptMap
from msd_ray.serving.generated import ensemble_pb2 as pb
from msd_ray.serving.protocol.formats import name_of, number_of
from msd_ray.serving.protocol.refusal import wrong
from msd_ray.serving.service.readiness import Readiness, short
from msd_ray.serving.service.request import ImageRequest, Limits, checked
from msd_ray.serving.service.service import Picture, Service
from msd_ray.serving.service.versions import StudentFacts, Version


def image_request_of(request: pb.GenerateRequest, limits: Limits) -> ImageRequest:
    """The request. Raises Refusal if it is not valid."""
    if len(request.conditions) > limits.images:  # before any of them is checked
        raise wrong("conditions", f"at most {limits.images} images at once, not {len(request.conditions)}")
    conditions = [_condition(condition, i) for i, condition in enumerate(request.conditions)]
    return checked(conditions, request.seeds, name_of(request.format), request.version, limits)


def image_of(picture: Picture) -> pb.Image:
    part_request, item, made = picture.part_request, picture.item, picture.made
    return pb.Image(
        index=item.index,
        data=made.data,
        format=number_of(part_request.format),
        shape=part_request.version.sample_shape,
        class_id=item.class_id,
        seed=item.seed,
        students=part_request.version.students_of(part_request.part),
        version=part_request.version.name,
        student_version=part_request.version.parts[part_request.part],
        queue_ms=made.queue_ms,
        compute_ms=made.compute_ms,
        prompt=item.prompt,
        margin=item.margin,
        position=item.position,
        batching=made.batching,
        bound=made.bound,
    )


def students_of(version: Version, readiness: Readiness) -> pb.ListStudentsResponse:
    students = [_student(student, version, readiness) for student in version.students]
    return pb.ListStudentsResponse(version=version.name, students=students)


def ensemble_of(service: Service) -> pb.GetEnsembleResponse:
    """Raises Refusal while nothing is served yet."""
    traffic, limits = service.known_traffic(), service.limits
    weighed, total = zip(traffic.versions, traffic.weights, strict=True), sum(traffic.weights)
    return pb.GetEnsembleResponse(
        versions=[_version(version, weight / total, service) for version, weight in weighed],
        limits=pb.Limits(images=limits.images, request_bytes=limits.request_bytes),
    )


def _condition(condition: pb.Condition, i: int) -> int | str:
    of = condition.WhichOneof("of")
    if of is None:
        raise wrong(f"conditions[{i}]", "give a class_id or a prompt")
    value: int | str = getattr(condition, of)
    return value


def _student(student: StudentFacts, version: Version, readiness: Readiness) -> pb.Student:
    number = student.index // version.intervals
    part = version.parts[number]
    return pb.Student(
        index=student.index,
        classes=version.ids_of(number),
        sigma_low=student.sigma_low,
        sigma_high=student.sigma_high,
        parameters=student.parameters,
        trained_images=student.nimg,
        sha256=student.sha256,
        student_version=part,
        not_ready=short(readiness.why(part), version),
    )


def _version(version: Version, weight: float, service: Service) -> pb.Version:
    count, away = service.tally.of(version.name), service.readiness.not_ready_of(version)
    images = max(count.images, 1)
    return pb.Version(
        name=version.name,
        weight=weight,
        partition_kind=version.kind,
        labels=version.labels,
        students=[version.students_of(part)[0] for part in version.owners],
        intervals=version.intervals,
        parameters=sum(student.parameters for student in version.students),
        evaluations=version.evaluations,
        sample_shape=version.sample_shape,
        recipe=version.recipe,
        served=pb.Served(
            images=count.images,
            failures=count.failures,
            mean_queue_ms=count.queue_ms / images,
            mean_compute_ms=count.compute_ms / images,
        ),
        takes_prompts=version.rule is not None,
        map=_map(version.map) if version.map else None,
        not_ready=[i for found in away for i in version.students_of(found.part)],
    )


def _map(of: PromptMap) -> pb.PromptMap:
    return pb.PromptMap(regions=[pb.Region(**vars(region)) for region in of.regions])
