"""The twin of the gRPC methods: the same answers, the same refusals."""

import asyncio
import base64
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from msd_ray.serving.client import Client
from msd_ray.serving.gateway.http_request_id import OneRequestId
from msd_ray.serving.protocol.refusal import away, busy
from msd_ray.serving.service.request import Limits

from .conftest import Running, running
from .test_gateway import Failing


def post(it: Running, body: Any, **more: Any) -> requests.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return requests.post(f"{it.url}/v1/generate", data=data, timeout=30, **more)


def test_makes_the_images_that_grpc_makes(service: Running) -> None:
    answer = post(service, {"conditions": [3, "digit 8"], "seeds": [1, 2**63 - 1], "format": "float32"})
    assert answer.status_code == 200
    with Client(service.address) as client:
        same = client.generate([3, 8], [1, 2**63 - 1], "float32")
    images = answer.json()["images"]
    for image, made in zip(images, same, strict=True):
        assert base64.b64decode(image["data"]) == made.data
        assert np.frombuffer(made.data, "<f4").reshape(image["shape"]).shape == (1, 8, 8)
        assert int(image["seed"]) == made.seed
        keys = ("index", "class_id", "version", "student_version", "format")
        assert {key: image[key] for key in keys} == {key: getattr(made, key) for key in keys}
        assert tuple(image["students"]) == made.students


def test_says_what_is_served(service: Running) -> None:
    told = requests.get(f"{service.url}/v1/ensemble", timeout=30).json()
    assert told["versions"][0]["labels"][9] == "digit 9"
    students = requests.get(f"{service.url}/v1/students", timeout=30).json()
    assert [s["index"] for s in students["students"]] == [0, 1, 2]
    assert requests.get(f"{service.url}/healthz", timeout=30).json() == {"status": "SERVING"}


def test_says_what_it_takes_and_gives(service: Running) -> None:
    said = requests.get(f"{service.url}/openapi.json", timeout=30).json()
    body = said["paths"]["/v1/generate"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == {"conditions", "seeds", "format", "version", "timeout_seconds"}
    assert {"/v1/students", "/v1/ensemble", "/healthz"} < set(said["paths"])
    assert requests.get(f"{service.url}/docs", timeout=30).status_code == 404  # it would load scripts from elsewhere


BAD: dict[str, tuple[Any, int, str]] = {
    "nothing": (b"", 400, ""),
    "no JSON": (b"conditions=0", 400, ""),
    "half of it": (b'{"conditions": [0', 400, ""),
    "a list": ([0], 400, ""),
    "no conditions": ({}, 400, "conditions"),
    "null": ({"conditions": None}, 400, "conditions"),
    "no condition": ({"conditions": []}, 400, "conditions"),
    "a number alone": ({"conditions": 3}, 400, "conditions"),
    "half a class": ({"conditions": [0.5]}, 400, "conditions[0]"),
    "a truth": ({"conditions": [True]}, 400, "conditions[0]"),
    "a class in a class": ({"conditions": [0, [0]]}, 400, "conditions[1]"),
    "a class too high": ({"conditions": [0, 10]}, 400, "conditions[1]"),
    "a negative class": ({"conditions": [-1]}, 400, "conditions[0]"),
    "a huge class": ({"conditions": [10**30]}, 400, "conditions[0]"),
    "an unknown label": ({"conditions": ["cat"]}, 400, "conditions[0]"),
    "a path": ({"conditions": ["../../etc/passwd"]}, 400, "conditions[0]"),
    "too many": ({"conditions": [0] * 33}, 400, "conditions"),
    "a negative seed": ({"conditions": [0], "seeds": [-1]}, 400, "seeds[0]"),
    "a seed of 65 bits": ({"conditions": [0], "seeds": [2**64]}, 400, "seeds[0]"),
    "a seed of 64 bits": ({"conditions": [0], "seeds": [2**63]}, 400, "seeds[0]"),
    "a seed in words": ({"conditions": [0], "seeds": ["one"]}, 400, "seeds[0]"),
    "half a seed": ({"conditions": [0], "seeds": [0.5]}, 400, "seeds[0]"),
    "fewer seeds": ({"conditions": [0, 1], "seeds": [0]}, 400, "seeds"),
    "an unknown format": ({"conditions": [0], "format": "gif"}, 400, "format"),
    "an unknown version": ({"conditions": [0], "version": "v9"}, 404, "version"),
    "a misspelt key": ({"conditions": [0], "seed": [1]}, 400, "seed"),
    "no time": ({"conditions": [0], "timeout_seconds": 0}, 400, "timeout_seconds"),
    "hardly any time": ({"conditions": [0], "timeout_seconds": 1e-9}, 504, ""),
    "conditions twice": (b'{"conditions": [0], "seeds": [1], "conditions": [1]}', 400, "conditions"),
    "seeds twice, escaped once": (b'{"conditions": [0], "seeds": [1], "se\\u0065ds": [2]}', 400, "seeds"),
    "a seed of 23 digits": ({"conditions": [0], "seeds": [10**22]}, 400, "seeds[0]"),
    "not a number": (b'{"conditions": [NaN]}', 400, "conditions[0]"),
    "not UTF-8": (b'{"conditions": ["\xff"]}', 400, ""),
    "half a surrogate": (b'{"conditions": ["\\ud800"]}', 400, ""),
    "lists in lists": (b'{"conditions": ' + b"[" * 2000 + b"]" * 2000 + b"}", 400, ""),
    "too many bytes": (b" " * 5000, 413, ""),
}


@pytest.mark.parametrize("name", BAD)
def test_is_refused_with_the_right_code(service: Running, name: str) -> None:
    body, status, field = BAD[name]
    answer = post(service, body)
    told = answer.json()
    assert (answer.status_code, told["field"]) == (status, field), told
    assert "Traceback" not in answer.text and "\n" not in told["message"]
    assert told["request_id"] == answer.headers["x-request-id"]
    assert post(service, {"conditions": [0], "seeds": [0]}).status_code == 200


def test_a_seed_that_is_too_large_is_told_the_range(service: Running) -> None:
    told = post(service, {"conditions": [0], "seeds": [10**22]}).json()
    assert told["message"] == "seeds[0]: must be from 0 to 2^63 - 1 (9223372036854775807)"


@pytest.mark.parametrize(
    ("key", "value"), [("negative_prompt", "blurry"), ("guidance_scale", 7.5), ("num_inference_steps", 50)]
)
def test_what_is_distilled_into_the_students_cannot_be_asked_for(service: Running, key: str, value: Any) -> None:
    for path in ("generate", "generate/stream"):
        answer = requests.post(f"{service.url}/v1/{path}", json={"conditions": [0], key: value}, timeout=30)
        assert (answer.status_code, answer.json()["field"]) == (400, key)
        assert "guidance and number of steps distilled into them" in answer.json()["message"]


def test_a_key_that_is_there_twice_is_told(service: Running) -> None:
    told = post(service, b'{"conditions": [0], "seeds": [1], "seeds": [2]}').json()
    assert told["message"] == "seeds: this key is there more than once: give it once"


class Echoing:
    """An ASGI server's middleware that adds the caller's x-request-id to the answer, as Serve's proxy does."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        sent = next((value for key, value in scope["headers"] if key == b"x-request-id"), b"drawn-by-the-server")

        async def with_id(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"X-Request-ID", sent)]}
            await send(message)

        await self._app(scope, receive, with_id)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ([b"good-1"], True),
        ([], False),
        ([b"a b"], False),
        ([b"<script>"], False),
        ([b"x" * 65], False),
        ([b"\xff\r"], False),
        ([b"one", b"two"], False),
    ],
)
def test_an_answer_has_one_request_id_and_a_sensible_one(sent: list[bytes], kept: bool) -> None:
    seen, answered = list[Any](), list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(value for key, value in scope["headers"] if key == b"x-request-id")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-request-id", seen[0])]})

    async def send(message: Any) -> None:
        answered.extend(value for key, value in message["headers"] if key.lower() == b"x-request-id")

    scope = {"type": "http", "headers": [(b"x-request-id", value) for value in sent]}
    asyncio.run(OneRequestId(Echoing(app))(scope, None, send))
    assert seen == answered
    assert len(answered) == 1
    assert (answered == sent) is kept
    assert re.fullmatch(rb"[A-Za-z0-9._-]{1,64}", answered[0])


def test_fuzzed_bodies_are_refused_or_answered(service: Running) -> None:
    rng, whole = random.Random(0), b'{"conditions": [1, "digit 2"], "seeds": [3, 4], "format": "float32"}'
    for _ in range(150):
        body = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            body[rng.randrange(len(body)) : rng.randrange(len(body) + 1)] = rng.randbytes(rng.randrange(3))
        assert post(service, bytes(body)).status_code in (200, 400)


@pytest.mark.parametrize("path", ["/v1", "/v1/generate/../x", "/v1/students/0", "/.git/config"])
def test_there_is_nothing_elsewhere(service: Running, path: str) -> None:
    assert requests.get(service.url + path, timeout=30).status_code in (404, 405)


def test_tokens_are_asked_for_here_too(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("secret")
    with running([tiny], Limits(), tokens=str(tmp_path / "tokens")) as it:
        body = {"conditions": [0]}
        assert post(it, body, headers={"authorization": "Bearer secret"}).status_code == 200
        refused = post(it, body, headers={"authorization": "Bearer wrong"})
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert requests.get(f"{it.url}/v1/ensemble", timeout=30).status_code == 401
        assert requests.get(f"{it.url}/v1/students", timeout=30).status_code == 401
        assert requests.get(f"{it.url}/healthz", timeout=30).status_code == 200


def test_who_is_refused_for_now_is_told_when_to_come_back(tiny: str) -> None:
    with running([tiny], Limits(), Failing([busy("full", 2.2), away("gone", 0.4)])) as it:
        for status, seconds in ((429, "3"), (503, "1")):
            answer = post(it, {"conditions": [0]})
            assert (answer.status_code, answer.headers["retry-after"]) == (status, seconds)


def test_errors_of_ours_are_told_without_their_inside(tiny: str) -> None:
    with running([tiny], Limits(), Failing([ZeroDivisionError("secret/path")])) as it:
        answer = post(it, {"conditions": [0]})
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_every_request_has_a_line_in_the_access_log(service: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="msd_ray.access")
    post(service, {"conditions": [0, 1]}, headers={"x-request-id": "good-1"})
    post(service, {"conditions": [99]}, headers={"x-request-id": "bad-1"})
    lines = {line["request_id"]: line for line in map(json.loads, caplog.messages)}
    assert (lines["good-1"]["code"], lines["good-1"]["images"], lines["good-1"]["protocol"]) == ("OK", 2, "http")
    assert (lines["bad-1"]["code"], lines["bad-1"]["method"]) == ("INVALID_ARGUMENT", "/v1/generate")
