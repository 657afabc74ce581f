"""The stream of the HTTP twin: a line of JSON for each image, as soon as it is made."""

import asyncio
import base64
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import requests

from msd_ray.serving.protocol.refusal import busy
from msd_ray.serving.service.config import StudentConfig
from msd_ray.serving.service.request import Limits
from msd_ray.serving.service.routing import PartRequest
from msd_ray.serving.service.service import StudentImage

from .conftest import LocalStudents, Running, running
from .test_http import BAD


def post(it: Running, body: Any, **more: Any) -> requests.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return requests.post(f"{it.url}/v1/generate/stream", data=data, timeout=30, **more)


def lines(answer: requests.Response) -> list[Any]:
    return [json.loads(line) for line in answer.iter_lines()]


def test_has_each_image_once_and_the_same_as_the_whole(service: Running) -> None:
    body = {"conditions": list(range(10)), "seeds": list(range(10)), "format": "float32"}
    answer = post(service, body)
    assert answer.headers["content-type"] == "application/x-ndjson"
    streamed = sorted((line["image"] for line in lines(answer)), key=lambda image: image["index"])
    whole = requests.post(f"{service.url}/v1/generate", json=body, timeout=30).json()["images"]
    assert [(i["index"], i["class_id"], i["data"]) for i in streamed] == [
        (i["index"], i["class_id"], i["data"]) for i in whole
    ]


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_from_the_start_has_a_status(service: Running, name: str) -> None:
    body, status, field = BAD[name]
    answer = post(service, body)
    assert (answer.status_code, answer.json()["field"]) == (status, field)


class Scripted(LocalStudents):
    """Makes class 0 at once; refuses class 1, and never makes class 2, but only once class 0 is made."""

    def __init__(self) -> None:
        super().__init__(StudentConfig())
        self.first, self.given_up = asyncio.Event(), threading.Event()

    async def ask(self, part_request: PartRequest, seconds: float) -> Sequence[StudentImage]:
        class_id = part_request.items[0].class_id
        if class_id == 0:
            made = await super().ask(part_request, seconds)
            self.first.set()
            return made
        try:
            await self.first.wait()
            await asyncio.sleep(0.1 if class_id == 1 else 60)
        except asyncio.CancelledError:
            self.given_up.set()
            raise
        raise busy("full", 2.0)


def test_what_goes_wrong_later_ends_it_with_a_line(tiny: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="msd_ray.access")
    with running([tiny], Limits(), Scripted()) as it:
        answer = post(it, {"conditions": [0, 1], "seeds": [5, 6]}, headers={"x-request-id": "half-1"})
        assert answer.status_code == 200
        image, error = lines(answer)
    assert base64.b64decode(image["image"]["data"]).startswith(b"\x89PNG")
    assert error["error"]["code"] == "RESOURCE_EXHAUSTED"
    assert (error["error"]["retry_seconds"], error["error"]["request_id"]) == (2.0, "half-1")
    (line,) = (said for said in map(json.loads, caplog.messages) if said["request_id"] == "half-1")
    assert (line["code"], line["images"]) == ("RESOURCE_EXHAUSTED", 1)


def test_images_are_sent_before_the_last_is_made_and_who_leaves_is_given_up(tiny: str) -> None:
    students = Scripted()
    with running([tiny], Limits(), students) as it:
        with post(it, {"conditions": [0, 2]}, stream=True) as answer:
            images = answer.iter_lines()  # kept: where it is thrown away, the connection is closed
            assert json.loads(next(images))["image"]["class_id"] == 0
            assert not students.given_up.is_set()
        assert students.given_up.wait(30)


def test_needs_a_token_where_all_else_does(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("secret")
    with running([tiny], Limits(), tokens=str(tmp_path / "tokens")) as it:
        assert post(it, {"conditions": [0]}).status_code == 401
        answer = post(it, {"conditions": [0]}, headers={"authorization": "Bearer secret"})
        assert len(lines(answer)) == 1


def test_its_lines_are_told_to_openapi(service: Running) -> None:
    said = requests.get(f"{service.url}/openapi.json", timeout=30).json()
    content = said["paths"]["/v1/generate/stream"]["post"]["responses"]["200"]["content"]
    line = content["application/x-ndjson"]["schema"]["properties"]
    assert {name: part["$ref"].rpartition("/")[2] for name, part in line.items()} == {
        "image": "ImageBody",
        "error": "ErrorBody",
    }
    assert {"ImageBody", "ErrorBody"} < set(said["components"]["schemas"])
