"""Ids of requests, the audit log, and what gRPC's own retries are told."""

import json
import logging
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests

from msd_ray.errors import UserError
from msd_ray.serving.gateway import access, audit
from msd_ray.serving.generated import ensemble_pb2 as pb
from msd_ray.serving.generated import ensemble_pb2_grpc as pb_grpc
from msd_ray.serving.protocol.refusal import busy
from msd_ray.serving.serve_apps.serve import refuse_missing
from msd_ray.serving.service.config import GatewayConfig
from msd_ray.serving.service.request import Limits

from .conftest import Running, running
from .test_gateway import Failing, eventually

TWO = pb.GenerateRequest(conditions=[pb.Condition(class_id=1), pb.Condition(class_id=2)], seeds=[5, 6])


def stub_of(address: str, **config: Any) -> Any:
    options = [("grpc.service_config", json.dumps(config))] if config else []
    return pb_grpc.EnsembleServiceStub(grpc.insecure_channel(address, options))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("sent", ["mine-7", "not a sensible one", ""])
def test_every_answer_has_the_id_of_its_request(service: Running, caplog: pytest.LogCaptureFixture, sent: str) -> None:
    caplog.set_level("INFO", logger="msd_ray.access")
    stub, metadata = stub_of(service.address), [("x-request-id", sent)]
    _, unary = stub.Generate.with_call(TWO, metadata=metadata)
    stream = stub.GenerateStream(TWO, metadata=metadata)
    assert len(list(stream)) == 2
    with pytest.raises(grpc.RpcError) as refused:
        stub.Generate(pb.GenerateRequest(), metadata=metadata)
    answer = requests.get(f"{service.url}/v1/students", headers={"x-request-id": sent}, timeout=20)
    ids = [dict(call.trailing_metadata())["x-request-id"] for call in (unary, stream, refused.value)]
    ids.append(answer.headers["x-request-id"])
    assert eventually(lambda: len(caplog.messages) == 4)
    assert sorted(json.loads(line)["request_id"] for line in caplog.messages) == sorted(
        ids
    )  # written after the answers
    if sent == "mine-7":
        assert ids == [sent] * 4
    else:
        assert all(len(each) == 32 for each in ids) and len(set(ids)) == 4


@pytest.fixture
def audited(tmp_path: Path) -> Iterator[Path]:
    before = logging.getLogger("msd_ray.access").handlers, logging.getLogger("msd_ray.access").propagate
    access.send_to(audit.into(str(tmp_path / "audit.jsonl")))
    yield tmp_path / "audit.jsonl"
    for handler in access.LOG.handlers:
        handler.close()
    access.LOG.handlers, access.LOG.propagate = before


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_audit_log_says_who_asked_for_what(tiny: str, tmp_path: Path, audited: Path) -> None:
    (tmp_path / "tokens").write_text("sesame name=alice\n")

    def written(n: int) -> bool:  # a line may be written after the answer
        return eventually(lambda: len(lines(audited)) == n)

    with running([tiny], Limits(), Failing([]), tokens=str(tmp_path / "tokens")) as it:
        token = [("authorization", "Bearer sesame")]
        stub_of(it.address).Generate(TWO, metadata=[*token, ("x-request-id", "first")])
        assert eventually(audited.exists) and written(1)
        list(stub_of(it.address).GenerateStream(TWO, metadata=token))
        assert written(2)
        with pytest.raises(grpc.RpcError):
            stub_of(it.address).Generate(TWO, metadata=[("authorization", "Bearer guessed")])
        assert written(3)
        body = {"conditions": [99], "seeds": [1]}
        requests.post(f"{it.url}/v1/generate", json=body, headers={"authorization": "Bearer sesame"}, timeout=20)
        assert written(4)
        body = {"conditions": [9], "seeds": [1]}
        requests.post(f"{it.url}/v1/generate/stream", json=body, headers=dict(token), timeout=20)
        assert written(5)
    first, stream, guessed, wrong, http = lines(audited)
    assert first.pop("time").endswith("Z")
    assert first == {
        "caller": "alice",
        "request_id": "first",
        "method": "/msd.v1.EnsembleService/Generate",
        "conditions": 2,
        "seeds_sha256": sha256(b"5,6").hexdigest(),
        "code": "OK",
        "images": 2,
    }
    assert (stream["code"], stream["images"], stream["seeds_sha256"]) == ("OK", 2, first["seeds_sha256"])
    assert (guessed["caller"], guessed["code"], guessed["conditions"]) == ("", "UNAUTHENTICATED", 0)
    assert (wrong["caller"], wrong["code"], wrong["images"]) == ("alice", "INVALID_ARGUMENT", 0)
    assert (http["method"], http["images"]) == ("/v1/generate/stream", 1)
    assert "sesame" not in audited.read_text() and "guessed" not in audited.read_text()


def test_seeds_that_the_service_draws_are_in_the_audit_log(tiny: str, audited: Path) -> None:
    with running([tiny], Limits(), Failing([])) as it:
        made = stub_of(it.address).Generate(pb.GenerateRequest(conditions=TWO.conditions)).images
        assert eventually(lambda: len(lines(audited)) == 1)
    drawn = ",".join(str(image.seed) for image in made)
    assert lines(audited)[0]["seeds_sha256"] == sha256(drawn.encode()).hexdigest()


def test_the_audit_log_goes_on_in_a_new_file_once_it_was_moved(tiny: str, audited: Path) -> None:
    with running([tiny], Limits(), Failing([])) as it:
        for name in ("one", "two"):
            stub_of(it.address).Generate(TWO)
            assert eventually(lambda: audited.exists() and len(lines(audited)) == 1)
            audited.rename(audited.with_name(name))
    assert len(lines(audited.with_name("one"))) == len(lines(audited.with_name("two"))) == 1


def test_an_audit_log_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write "):
        refuse_missing(GatewayConfig(audit=str(tmp_path / "nowhere" / "audit")))


def test_tokens_that_are_wrong_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("one wait=2")
    with pytest.raises(UserError, match="line 1 of the tokens"):
        refuse_missing(GatewayConfig(tokens=str(tmp_path / "tokens")))


def test_the_retries_of_grpc_itself_wait_as_long_as_they_are_told(tiny: str) -> None:
    policy = {
        "maxAttempts": 3,
        "initialBackoff": "0.001s",
        "maxBackoff": "0.001s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"],
    }
    students = Failing([busy("full", 0.4)])
    with running([tiny], Limits(), students) as it:
        stub = stub_of(it.address, methodConfig=[{"name": [{}], "retryPolicy": policy}])
        began = time.monotonic()
        assert len(stub.Generate(pb.GenerateRequest(conditions=TWO.conditions[:1])).images) == 1
        assert time.monotonic() - began >= 0.4 and students.asked == 2
        with pytest.raises(grpc.RpcError) as refused:
            stub.Generate(pb.GenerateRequest())
    assert dict(refused.value.trailing_metadata())["grpc-retry-pushback-ms"] == "-1"
