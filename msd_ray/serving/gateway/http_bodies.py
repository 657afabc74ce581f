"""The JSON bodies of HTTP requests and answers."""

import base64
import json
from typing import Any

from google.protobuf import json_format
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from msd_ray.serving.protocol.refusal import Refusal, wrong
from msd_ray.serving.service.service import Picture


class GenerateBody(BaseModel):
    """What to make: one image per condition. The same condition and seed give the same image."""

    model_config = ConfigDict(extra="forbid", strict=True)

    conditions: list[int | str] = Field(description="Class numbers or labels, or prompts.", examples=[[3, 8]])
    seeds: list[int] = Field([], description="One per condition, 0 to 2^63 - 1; none: drawn.", examples=[[1, 2]])
    format: str = Field("", description="png, webp, jpeg or float32; empty: png, or float32 for points.")
    version: str = Field("", description="By name; empty: as the traffic is split.")
    timeout_seconds: float | None = Field(None, gt=0, description="How long the caller waits.")


class ImageBody(BaseModel):
    """An image. data: in base64; float32 is little-endian, in C order."""

    index: int
    data: str
    format: str
    shape: list[int]
    class_id: int
    seed: str = Field(description="In decimals, since JSON numbers end at 2^53 in many languages.")
    students: list[int]
    version: str
    student_version: str
    queue_ms: float
    compute_ms: float
    prompt: str = Field("", description="Of a version that takes prompts.")
    margin: float = Field(0.0, description="How much more the next part would cost this prompt.")
    position: list[float] = Field([], description="Where the prompt lies on the version's map.")
    batching: str = Field(description="exact: the bits of `msd-ray generate`; batched: those but for `bound`.")
    bound: float


class GenerateAnswer(BaseModel):
    images: list[ImageBody]


class ErrorBody(BaseModel):
    """Why there is no other answer. code: the name of the gRPC status."""

    code: str
    message: str
    field: str
    request_id: str
    retry_seconds: float | None


GUIDANCE = (
    "negative_prompt",
    "negative_prompts",
    "guidance",
    "guidance_scale",
    "cfg_scale",
    "steps",
    "num_inference_steps",
    "num_steps",
    "sampler",
    "scheduler",
)
"""Keys that services of diffusion models take, and this one does not."""
DISTILLED = (
    "there is no such key: students have their teacher's guidance and number of steps distilled into them, so neither "
    "guidance, steps nor a negative prompt can be chosen per request"
)

# A line of a stream is an object with one of these. An error ends it; before the first image it has a status instead.
LINE = {"image": ImageBody, "error": ErrorBody}


def parsed(body: bytes) -> GenerateBody:
    """The body as a request. Raises Refusal, which names the field, if it is not valid."""
    try:
        parsed = GenerateBody.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "extra_forbidden" and first["loc"][-1] in GUIDANCE:
            raise wrong(str(first["loc"][-1]), DISTILLED) from None
        field = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"] if p not in ("int", "str"))
        raise wrong(field.lstrip("."), first["msg"]) from None
    json.loads(body, object_pairs_hook=_each_key_once)
    return parsed


def _each_key_once(pairs: list[tuple[str, Any]]) -> None:
    """Raises Refusal for a key that occurs twice: JSON does not define which of its values counts."""
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise wrong(key, "this key is there more than once: give it once")


def image_body(picture: Picture) -> ImageBody:
    part_request, item, made = picture.part_request, picture.item, picture.made
    return ImageBody(
        index=item.index,
        data=base64.b64encode(made.data).decode(),
        format=part_request.format,
        shape=list(part_request.version.sample_shape),
        class_id=item.class_id,
        seed=str(item.seed),
        students=list(part_request.version.students_of(part_request.part)),
        version=part_request.version.name,
        student_version=part_request.version.parts[part_request.part],
        queue_ms=made.queue_ms,
        compute_ms=made.compute_ms,
        prompt=item.prompt,
        margin=item.margin,
        position=list(item.position),
        batching=made.batching,
        bound=made.bound,
    )


def error_body(refusal: Refusal, request_id: str) -> ErrorBody:
    return ErrorBody(
        code=refusal.kind,
        message=refusal.message,
        field=refusal.field,
        request_id=request_id,
        retry_seconds=refusal.retry_seconds,
    )


def as_json(message: Any) -> Any:
    """A message in proto3's JSON: numbers of 64 bits as text, infinity as a word."""
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI's description of a body, which the code reads itself since its size is limited."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}
