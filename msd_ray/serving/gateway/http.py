"""The contract's methods as HTTP and JSON, with OpenAPI at /openapi.json, and the playground at /."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response

from msd_ray.serving.gateway.access import Call
from msd_ray.serving.gateway.grpc_web import add_grpc_web
from msd_ray.serving.gateway.health import gateway, whole
from msd_ray.serving.gateway.http_answers import Lines, answered, bounded, streamed
from msd_ray.serving.gateway.http_bodies import (
    LINE,
    ErrorBody,
    GenerateAnswer,
    GenerateBody,
    ImageBody,
    as_json,
    body_of,
    image_body,
    parsed,
)
from msd_ray.serving.gateway.http_headers import BoundedHeaders
from msd_ray.serving.gateway.playground import add_playground
from msd_ray.serving.gateway.proto_messages import ensemble_of, students_of
from msd_ray.serving.service.request import ImageRequest, checked
from msd_ray.serving.service.routing import version_named
from msd_ray.serving.service.service import Service
from msd_ray.serving.service.tokens import Caller, Tokens

_EITHER = {name: {"$ref": f"#/components/schemas/{model.__name__}"} for name, model in LINE.items()}
_LINES = {Lines.media_type: {"schema": {"type": "object", "properties": _EITHER}}}
_STREAM: dict[int | str, dict[str, Any]] = {200: {"description": "One JSON object in each line", "content": _LINES}}


def http_app(service: Service, tokens: Tokens, origins: Sequence[str] = (), grpc_web: bool = False) -> FastAPI:
    """The routes below /v1; health and the playground, which are open to all. origins: of other web pages that may
    ask. grpc_web: whether the contract's methods are there for gRPC-Web too."""
    app = FastAPI(
        title="msd_ray",
        version="v1",
        description=__doc__,
        responses={"default": {"model": ErrorBody}},
        docs_url=None,  # FastAPI's own pages of the API would load scripts from the internet
        redoc_url=None,
    )

    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "grpc-timeout", "x-grpc-web", "x-request-id"],
            expose_headers=["x-request-id", "retry-after"],
        )
    app.add_middleware(BoundedHeaders)

    if grpc_web:
        add_grpc_web(app, service, tokens)

    def told(health: dict[str, Any]) -> Response:
        return JSONResponse(health, 200 if health["status"] == "SERVING" else 503)

    async def asked(request: Request, call: Call) -> tuple[ImageRequest, float | None, Caller]:
        """What is asked for, how long the caller waits, and who it is."""
        body = parsed(await bounded(request, service.limits.request_bytes, service.limits.seconds))
        call.request = checked(body.conditions, body.seeds, body.format, body.version, service.limits)
        return call.request, body.timeout_seconds, call.caller

    @app.post("/v1/generate", response_model=GenerateAnswer, openapi_extra=body_of(GenerateBody))
    async def generate(request: Request) -> Response:
        """Make images, and answer once all are made."""

        async def work(call: Call) -> Any:
            pictures = await service.generate(*await asked(request, call))
            call.images = len(pictures)
            return {"images": [image_body(picture).model_dump() for picture in pictures]}

        return await answered(request, tokens, work)

    @app.post("/v1/generate/stream", response_class=Response, responses=_STREAM, openapi_extra=body_of(GenerateBody))
    async def generate_stream(request: Request) -> Response:
        """Make images, and send each as a line of JSON as soon as it is made, in any order."""

        async def work(call: Call) -> AsyncIterator[ImageBody]:
            async for picture in service.stream(*await asked(request, call)):
                yield image_body(picture)

        return await streamed(request, tokens, work)

    @app.get("/v1/students")
    async def students(request: Request, version: str = "") -> Response:
        """The students of a version; of the main one if none is named."""

        async def work(call: Call) -> Any:
            return as_json(students_of(version_named(service.known_traffic(), version), service.readiness))

        return await answered(request, tokens, work)

    @app.get("/v1/ensemble")
    async def ensemble(request: Request) -> Response:
        """What is served: versions, weights, labels, limits."""

        async def work(call: Call) -> Any:
            return as_json(ensemble_of(service))

        return await answered(request, tokens, work)

    @app.get("/healthz")
    async def healthz() -> Response:
        """Whether all students that get traffic are ready; 503 where some are not, and which. For people and alarms."""
        return told(whole(service))

    @app.get("/readyz")
    async def readyz() -> Response:
        """Whether this gateway can be sent requests: it can while some students are not ready. For load balancers."""
        return told(gateway(service))

    @app.get("/livez")
    async def livez() -> Response:
        """Whether this gateway runs: the answer itself says so. For whoever would start it again."""
        return told({"status": "SERVING"})

    add_playground(app)
    return app
