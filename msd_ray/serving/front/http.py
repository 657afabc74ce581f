"""The contract's methods as HTTP and JSON, with OpenAPI at /docs."""

import base64
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from google.protobuf import json_format
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from msd_ray.serving.core.routing import named
from msd_ray.serving.core.service import Picture, Service
from msd_ray.serving.core.tokens import Tokens
from msd_ray.serving.core.wish import checked
from msd_ray.serving.front.access import Call, noted
from msd_ray.serving.front.messages import ensemble_of, students_of
from msd_ray.serving.wire.refusal import Refusal, wrong

LOG = logging.getLogger(__name__)
CODES = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "NOT_FOUND": 404,
    "FAILED_PRECONDITION": 409,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
Work = Callable[[Call], Awaitable[Any]]


class GenerateBody(BaseModel):
    """What to make: one image per condition. The same condition and seed give the same image."""

    model_config = ConfigDict(extra="forbid", strict=True)

    conditions: list[int | str] = Field(description="Class numbers or labels.", examples=[[3, 8]])
    seeds: list[int] = Field([], description="One per condition, 0 to 2^63 - 1; none: drawn.", examples=[[1, 2]])
    format: str = Field("", description="png, webp or float32; empty: png, or float32 for points.")
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


class GenerateAnswer(BaseModel):
    images: list[ImageBody]


class ErrorAnswer(BaseModel):
    """Why there is no other answer. code: the name of the gRPC status."""

    code: str
    message: str
    field: str
    request_id: str
    retry_seconds: float | None


def http_app(service: Service, tokens: Tokens) -> FastAPI:
    """The routes below /v1, and /healthz, which is open to all."""
    app = FastAPI(title="msd_ray", version="v1", description=__doc__, responses={"default": {"model": ErrorAnswer}})

    @app.post("/v1/generate", response_model=GenerateAnswer, openapi_extra=_body_of(GenerateBody))
    async def generate(request: Request) -> Response:
        """Make images, and answer once all are made."""

        async def work(call: Call) -> Any:
            wanted = _parsed(await _bounded(request, service.limits.request_bytes))
            wish = checked(wanted.conditions, wanted.seeds, wanted.format, wanted.version, service.limits)
            pictures = await service.generate(wish, wanted.timeout_seconds)
            call.images = len(pictures)
            return {"images": [_image(picture).model_dump() for picture in pictures]}

        return await _answered(request, tokens, work)

    @app.get("/v1/students")
    async def students(request: Request, version: str = "") -> Response:
        """The students of a version; of the main one if none is named."""

        async def work(call: Call) -> Any:
            return _json(students_of(named(service.known_traffic(), version)))

        return await _answered(request, tokens, work)

    @app.get("/v1/ensemble")
    async def ensemble(request: Request) -> Response:
        """What is served: versions, weights, labels, limits."""

        async def work(call: Call) -> Any:
            return _json(ensemble_of(service.known_traffic(), service.limits, service.tally))

        return await _answered(request, tokens, work)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether requests are answered."""
        service.known_traffic()
        return {"status": "SERVING"}

    return app


async def _answered(request: Request, tokens: Tokens, work: Work) -> Response:
    """What the work gives as JSON, or why there is nothing to give."""
    peer = f"{request.client.host}:{request.client.port}" if request.client else ""
    call = Call("http", request.url.path, peer, request.headers.get("x-request-id", ""))
    with noted(call):
        try:
            tokens.check(request.headers.get("authorization", ""))
            answer: Response = JSONResponse(await work(call))
        except Refusal as refusal:
            answer = _refused(refusal, call)
        except Exception as error:
            LOG.error("request %s failed", call.id, exc_info=error)
            answer = _refused(Refusal("INTERNAL", f"the service failed; its log says why under {call.id}"), call)
    answer.headers["x-request-id"] = call.id
    return answer


def _refused(refusal: Refusal, call: Call) -> Response:
    call.code, headers = refusal.kind, {}
    if refusal.retry_seconds is not None:
        headers["retry-after"] = str(math.ceil(refusal.retry_seconds))
    if refusal.kind == "UNAUTHENTICATED":
        headers["www-authenticate"] = "Bearer"
    said = ErrorAnswer(
        code=refusal.kind,
        message=refusal.message,
        field=refusal.field,
        request_id=call.id,
        retry_seconds=refusal.retry_seconds,
    )
    return JSONResponse(said.model_dump(), _code(refusal), headers)


def _code(refusal: Refusal) -> int:
    too_large = refusal.kind == "RESOURCE_EXHAUSTED" and refusal.retry_seconds is None
    return 413 if too_large else CODES[refusal.kind]


async def _bounded(request: Request, most: int) -> bytes:
    """The body. Raises Refusal where it is longer than `most` bytes."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise Refusal("RESOURCE_EXHAUSTED", f"a request may have {most} bytes")
    return body


def _parsed(body: bytes) -> GenerateBody:
    try:
        return GenerateBody.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"] if p not in ("int", "str"))
        raise wrong(field.lstrip("."), first["msg"]) from None


def _image(picture: Picture) -> ImageBody:
    errand, item, made = picture.errand, picture.item, picture.made
    return ImageBody(
        index=item.index,
        data=base64.b64encode(made.data).decode(),
        format=errand.format,
        shape=list(errand.version.sample_shape),
        class_id=item.class_id,
        seed=str(item.seed),
        students=list(errand.version.students_of(errand.part)),
        version=errand.version.name,
        student_version=errand.version.parts[errand.part],
        queue_ms=made.queue_ms,
        compute_ms=made.compute_ms,
    )


def _json(message: Any) -> Any:
    """As proto3's JSON says it: numbers of 64 bits as text, infinity as a word."""
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _body_of(model: type[BaseModel]) -> dict[str, Any]:
    """The body is read by hand, since it is bounded; this tells OpenAPI of it all the same."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}
