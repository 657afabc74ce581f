"""gRPC-Web, as a browser's client sends it."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from msd_ray.serving.client import Client
from msd_ray.serving.gateway.grpc_web import KIND, TRAILERS, frame
from msd_ray.serving.generated import ensemble_pb2 as pb
from msd_ray.serving.protocol.refusal import busy
from msd_ray.serving.service.request import Limits

from .conftest import Running, running
from .test_gateway import Failing, Slow, eventually

TWO = pb.GenerateRequest(conditions=[pb.Condition(class_id=1), pb.Condition(class_id=2)], seeds=[5, 6])


@pytest.fixture(scope="module")
def it(tiny: str) -> Iterator[Running]:
    with running([tiny], Limits(images=32, request_bytes=4096), grpc_web=True) as service:
        yield service


def asked(
    it: Running, method: str, body: bytes, kind: str = f"{KIND}+proto", **headers: str
) -> tuple[list[bytes], dict[str, str]]:
    """Messages and trailers."""
    names = {key.replace("_", "-"): value for key, value in headers.items()}
    url = f"{it.url}/msd.v1.EnsembleService/{method}"
    answer = requests.post(url, data=body, headers={"content-type": kind, "x-grpc-web": "1", **names}, timeout=30)
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    left, messages = answer.content, list[bytes]()
    if "-text" in kind:  # each frame may be padded by itself
        left = b"".join(base64.b64decode(part + b"=" * (-len(part) % 4)) for part in left.replace(b"=", b" ").split())
    while left:
        size = int.from_bytes(left[1:5], "big")
        flags, content, left = left[0], left[5 : 5 + size], left[5 + size :]
        if flags == TRAILERS:
            assert not left
            return messages, dict(line.split(": ", 1) for line in content.decode().splitlines())
        messages.append(content)
    raise AssertionError("no trailers")


def sent(message: Message) -> bytes:
    return frame(0, message.SerializeToString())


@pytest.mark.parametrize("text", [False, True])
def test_makes_the_images_that_grpc_makes(it: Running, text: bool) -> None:
    kind, body = (f"{KIND}-text", base64.b64encode(sent(TWO))) if text else (f"{KIND}+proto", sent(TWO))
    (message,), trailers = asked(it, "Generate", body, kind)
    with Client(it.address) as client:
        same = client.generate([1, 2], [5, 6])
    assert [image.data for image in pb.GenerateResponse.FromString(message).images] == [image.data for image in same]
    assert trailers["grpc-status"] == "0" and len(trailers["x-request-id"]) == 32
    messages, trailers = asked(it, "GenerateStream", body, kind)
    images = sorted(map(pb.Image.FromString, messages), key=lambda image: image.index)
    assert [image.data for image in images] == [image.data for image in same] and trailers["grpc-status"] == "0"


def test_says_what_is_served(it: Running) -> None:
    (message,), _ = asked(it, "GetEnsemble", sent(pb.GetEnsembleRequest()), x_request_id="mine-7")
    assert pb.GetEnsembleResponse.FromString(message).limits.images == 32
    (message,), trailers = asked(it, "ListStudents", sent(pb.ListStudentsRequest()), x_request_id="mine-7")
    assert len(pb.ListStudentsResponse.FromString(message).students) == 3 and trailers["x-request-id"] == "mine-7"


BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "3"),
    "half a frame": (sent(TWO)[:-1], "3"),
    "two frames": (sent(TWO) * 2, "3"),
    "a frame that is compressed": (b"\1" + sent(TWO)[1:], "3"),
    "trailers": (frame(TRAILERS, b"a: b\r\n"), "3"),
    "a length of 4 GB": (b"\0\xff\xff\xff\xff", "3"),
    "no message of the method": (frame(0, b"\x0b\x0b"), "3"),
    "a class too high": (sent(pb.GenerateRequest(conditions=[pb.Condition(class_id=99)])), "3"),
    "an unknown version": (sent(pb.GenerateRequest(conditions=TWO.conditions, version="v9")), "5"),
    "a message that is too large": (frame(0, b"\0" * 5000), "3"),
    "far too many bytes": (b"\0" * 9000, "8"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
def test_what_is_wrong_has_a_status(it: Running, name: str, method: str) -> None:
    body, code = BAD[name]
    messages, trailers = asked(it, method, body)
    assert (messages, trailers["grpc-status"]) == ([], code)
    details = status_pb2.Status.FromString(base64.b64decode(trailers["grpc-status-details-bin"] + "=="))
    assert details.code == int(code)
    assert asked(it, method, sent(TWO))[1]["grpc-status"] == "0"


def test_text_that_is_not_base64_is_refused(it: Running) -> None:
    assert asked(it, "Generate", b"%%%", f"{KIND}-text")[1]["grpc-status"] == "3"


def test_other_kinds_and_methods_are_not_there(it: Running, service: Running) -> None:
    def status(at: Running, path: str, kind: str) -> int:
        return requests.post(at.url + path, data=sent(TWO), headers={"content-type": kind}, timeout=20).status_code

    assert status(it, "/msd.v1.EnsembleService/Generate", "application/json") == 415
    assert status(it, "/msd.v1.EnsembleService/Erase", KIND) == 404
    assert status(service, "/msd.v1.EnsembleService/Generate", KIND) == 404  # it is off by default


def test_tokens_quotas_and_the_log_are_those_of_all(
    tiny: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="msd_ray.access")
    (tmp_path / "tokens").write_text("sesame name=alice images_per_day=3")
    given: dict[str, Any] = {"grpc_web": True, "tokens": str(tmp_path / "tokens")}
    with running([tiny], Limits(), Failing([busy("full", 0.25)]), **given) as it:
        _, refused = asked(it, "Generate", sent(TWO), authorization="Bearer sesame")
        _, made = asked(it, "Generate", sent(TWO), authorization="Bearer sesame")
        _, over = asked(it, "Generate", sent(TWO), authorization="Bearer sesame")
        _, wrong = asked(it, "Generate", sent(TWO), authorization="Bearer wrong")
    assert [t["grpc-status"] for t in (refused, made, over, wrong)] == ["8", "0", "8", "16"]
    assert refused["grpc-retry-pushback-ms"] == "250"
    status = status_pb2.Status.FromString(base64.b64decode(refused["grpc-status-details-bin"] + "=="))
    assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)
    lines = [json.loads(line) for line in caplog.messages]
    assert [(line["protocol"], line["caller"], line["images"]) for line in lines] == [
        ("grpc-web", "alice", 0),
        ("grpc-web", "alice", 2),
        ("grpc-web", "alice", 0),
        ("grpc-web", "", 0),
    ]


def test_deadlines_hold_and_who_goes_takes_the_work_along(tiny: str) -> None:
    slow = Slow(30)
    with running([tiny], Limits(), slow, grpc_web=True) as it:
        assert asked(it, "Generate", sent(TWO), grpc_timeout="200m")[1]["grpc-status"] == "4"
        assert eventually(lambda: slow.asked == slow.cancelled > 0)
        before = slow.asked
        url = f"{it.url}/msd.v1.EnsembleService/GenerateStream"
        with pytest.raises(requests.exceptions.RequestException):  # a timeout, before or after the headers
            requests.post(url, data=sent(TWO), headers={"content-type": KIND}, timeout=1.0)
        assert eventually(lambda: slow.asked == slow.cancelled > before)
