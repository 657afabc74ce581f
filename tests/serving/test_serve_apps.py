"""The whole service on Ray Serve: what it answers, and that it goes on answering whatever dies or changes.

All tests share one service; the last one ends it.
"""

import asyncio
import json
import os
import random
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from msd_ray.ensemble import Ensemble
from msd_ray.errors import UserError
from msd_ray.serving.client import Client, RefusedError, Retry
from msd_ray.serving.client.calls import NEVER
from msd_ray.serving.service.config import ServeConfig
from msd_ray.serving.service.ensemble_facts import describe
from msd_ray.serving.service.gatherer import PartCall

from .asking import all_at_once, one_at_a_time, pairs_of
from .ensembles import PICTURES, flip_a_bit, saved
from .whole import BODY, Load, Site, assert_right, eventually, replicas, started

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]
STUDENT, GATEWAY, REGISTRY = (
    "ServeReplica:msd-ray-part-",
    "ServeReplica:msd-ray:Gateway",
    "ServeReplica:msd-ray-versions",
)
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(scope="module")
def site(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    import ray

    with started(tmp_path_factory.mktemp("whole"), ray.get_runtime_context().gcs_address) as it:
        yield it


@pytest.fixture(scope="module")
def operation(site: Site) -> Any:
    from msd_ray.serving.serve_apps.updates import Operation

    return Operation()


@pytest.fixture(scope="module")
def first(operation: Any) -> str:
    """The name of the version served at first."""
    return str(operation.current()[0].versions[0].name)


def test_answers_as_the_ensemble_does_over_grpc_and_http(site: Site, first: str) -> None:
    classes, seeds = [i % 10 for i in range(40)], [random.Random(i).getrandbits(63) for i in range(40)]
    with Client(site.where) as client:
        made = client.generate(classes, seeds, "float32")
        streamed = sorted(client.stream(classes, seeds, "float32"), key=lambda image: image.index)
    assert_right(made, {first: site.uri})
    assert [image.data for image in streamed] == [image.data for image in made]
    twin = site.http("/v1/generate", {"conditions": [3], "seeds": [seeds[3]]}).json()
    assert twin["images"][0]["student_version"] == made[3].student_version
    assert site.http("/healthz").json() == {"status": "SERVING"}
    refused = site.http("/v1/generate", {"conditions": [10]}, {"x-request-id": "<b>"})
    assert refused.status_code == 400
    assert refused.raw.headers.getlist("x-request-id") == [refused.json()["request_id"]] != ["<b>"]


def test_a_thousand_pairs_under_load_are_what_the_ensemble_makes_one_at_a_time(site: Site) -> None:
    pairs = pairs_of(1000)
    assert asyncio.run(all_at_once(site.where, pairs)) == one_at_a_time(site.uri, pairs)


def test_a_trace_goes_from_the_caller_to_the_students(site: Site, cache: Path) -> None:
    sent = (("authorization", f"Bearer {site.where.token}"), ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"))
    credentials = site.where.credentials()
    with grpc.secure_channel(site.where.target, credentials) as channel:
        channel.unary_unary("/msd.v1.EnsembleService/Generate")(b"\x0a\x02\x08\x03", metadata=sent, timeout=60)

    def spans() -> dict[str, str | None]:
        lines = [line for file in (cache / "spans").glob("*") for line in file.read_text().splitlines()]
        return {s["name"]: s["parent_id"] for s in map(json.loads, lines) if s["context"]["trace_id"].endswith(TRACE)}

    ours, theirs = "msd.v1.EnsembleService/Generate", "replica_handle_request DedicatedReplica make"
    assert eventually(lambda: {ours, theirs} <= set(spans())), spans()
    assert spans()[ours] == "0xb7ad6b7169203331"
    assert spans()[theirs] not in (None, spans()[ours])  # its parent is Serve's own span, of the way there


def test_a_second_service_is_refused(site: Site) -> None:
    from msd_ray.serving.serve_apps.deploy import start_serve
    from msd_ray.serving.serve_apps.serve import refuse_taken
    from msd_ray.serving.service.config import GatewayConfig

    with pytest.raises(UserError, match="choose another --port"):
        refuse_taken(GatewayConfig(port=int(site.where.target.rpartition(":")[2])))
    with pytest.raises(UserError, match="serves an ensemble already"):
        start_serve(ServeConfig())


def test_whoever_is_killed_no_request_is_lost(site: Site, first: str) -> None:
    with Load(site.where) as patient, Load(site.where, NEVER, threads=1) as impatient:
        for victim in (STUDENT, GATEWAY, REGISTRY, "ServeController", "ProxyActor"):
            patient.more(30)
            before = {process.pid for process in replicas(victim)}
            os.kill(min(before), signal.SIGKILL)
            patient.more(30)
            assert eventually(lambda: {p.pid for p in replicas(victim)} - before), victim  # noqa: B023
        patient.more(30)
    assert patient.errors == []
    assert {str(getattr(error, "code", error)) for error in impatient.errors} <= {"UNAVAILABLE"}
    assert_right(patient.made + impatient.made, {first: site.uri})
    assert eventually(lambda: answers(site))


def answers(site: Site) -> bool:
    try:
        return site.http("/v1/generate", BODY).ok
    except OSError:
        return False


def test_versions_change_under_load_without_a_lost_request(
    site: Site, operation: Any, first: str, tmp_path: Path
) -> None:
    second = saved(tmp_path / "second", 2, spec=PICTURES, weights=(0, 7))  # student 0 is that of the first
    before = {process.pid for process in replicas(STUDENT)}
    with Load(site.where, Retry(tries=1)) as load:
        assert site.told("update", second, "--name", "second", "--weight", "0.3") == {"second": 0.3, first: 0.7}
        canary = [image.version for image in load.more(120)]
        assert before < {process.pid for process in replicas(STUDENT)}
        assert len(replicas(STUDENT)) == 3  # the student that both have runs once
        operation.update(second, "second", 1.0)
        later = {image.version for image in load.more(30)[9:]}  # what was under way may still be of the first
        assert site.told("rollback") == {first: 1.0, "second": 0.0}
        back = {image.version for image in load.more(30)[9:]}
    assert load.errors == []
    assert 0.1 < canary.count("second") / len(canary) < 0.5
    assert (later, back) == ({"second"}, {first})
    assert_right(load.made, {first: site.uri, "second": second})


def test_an_update_that_cannot_be_leaves_the_service_as_it_was(site: Site, operation: Any, tmp_path: Path) -> None:
    served = operation.current()[0]
    damaged = saved(tmp_path / "damaged", 2, spec=PICTURES, weights=(0, 9))
    flip_a_bit(tmp_path / "damaged" / "student-0001.safetensors")
    with pytest.raises(UserError, match=r"does not start: .*student-0001\.safetensors"):
        operation.update(damaged)
    with pytest.raises(UserError, match="no ensemble at"):
        operation.update(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="already names another"):
        operation.update(damaged, served.versions[0].name)
    with pytest.raises(UserError, match="no version v9"):
        operation.roll_back("v9")
    assert operation.current()[0] == served
    assert site.told("versions") == dict(zip([v.name for v in served.versions], served.weights, strict=True))


def test_few_replicas_may_hold_many_students(site: Site, tmp_path: Path) -> None:
    """A replica that keeps one part answers for both, in turns, and finds damage before it is asked."""
    from ray import serve

    from msd_ray.serving.serve_apps.app_names import ANY_PART, model_id
    from msd_ray.serving.serve_apps.deploy import deploy_students
    from msd_ray.serving.service.config import parse_config

    version, config = describe(site.uri), parse_config({"students": {"placement": "multiplexed", "resident": 1}})
    deploy_students(version, config, "multiplexed")
    for class_id in (0, 5, 9, 0):
        part = version.owners[class_id]
        asked = serve.get_app_handle(ANY_PART).options(
            multiplexed_model_id=model_id(site.uri, part, version.parts[part])
        )
        call = PartCall(site.uri, part, version.parts[part], [(class_id, 4)], "float32", 60.0)
        ((made,),) = asked.make.remote([call]).result(timeout_s=120).answers
        assert made.data == Ensemble.load(site.uri).generate([class_id], [4])[0].numpy().tobytes()
    calls = [
        PartCall(site.uri, version.owners[c], version.parts[version.owners[c]], [(c, 4)], "png", 60.0) for c in (0, 9)
    ]
    together = serve.get_app_handle(ANY_PART).make.remote(calls).result(timeout_s=120)
    assert [len(answer) for answer in together.answers] == [1, 1] and together.most == [64, 64]
    saved(tmp_path, 2, spec=PICTURES)
    flip_a_bit(tmp_path / "student-0001.safetensors")
    with pytest.raises(UserError, match=r"does not start: .*student-0001\.safetensors"):
        deploy_students(describe(str(tmp_path)), config, "multiplexed")


@pytest.mark.nightly
def test_students_that_nobody_asks_go_away_and_come_back(site: Site, tmp_path: Path) -> None:
    from ray import serve

    from msd_ray.serving.serve_apps.app_names import part_app
    from msd_ray.serving.serve_apps.deploy import deploy_students
    from msd_ray.serving.service.config import parse_config

    uri = saved(tmp_path, 2, spec=PICTURES, weights=(21, 22))
    version = describe(uri)
    students = {"placement": "dedicated", "min_replicas": 0, "idle_seconds": 1.0}
    deploy_students(version, parse_config({"students": students}), "dedicated")
    part = version.parts[version.owners[3]]
    assert eventually(lambda: not replicas(f"ServeReplica:{part_app(part)}"))
    call = PartCall(uri, version.owners[3], part, [(3, 4)], "float32", 60.0)
    ((made,),) = serve.get_app_handle(part_app(part)).make.remote([call]).result(timeout_s=120).answers
    assert made.data == Ensemble.load(uri).generate([3], [4])[0].numpy().tobytes()
    assert replicas(f"ServeReplica:{part_app(part)}")


def test_students_that_are_stopped_or_damaged_are_told_and_replaced(site: Site) -> None:
    def not_ready() -> list[int]:
        return [student["student"] for student in site.http("/healthz").json().get("not_ready", [])]

    with Client(site.where) as client:
        (owner,) = (s for s in client.students().students if 3 in s.classes)
        title = f"{STUDENT}{owner.student_version}"
        (stopped,) = replicas(title)
        stopped.suspend()
        assert eventually(lambda: not_ready() == [owner.index])
        assert client.generate([3], [7])  # tried again until there is another replica
        assert eventually(lambda: not_ready() == [])
        assert client.students().students[owner.index].not_ready == ""
    file = Path(site.uri) / f"student-{owner.index:04d}.safetensors"
    content = file.read_bytes()
    flip_a_bit(file)
    for process in replicas(title):
        process.kill()
    with Client(site.where, retry=NEVER) as client:
        why = f"student {owner.index} of classes .* is not ready: {file.name} is damaged: its sha256"
        assert eventually(lambda: re.search(why, refusal_of(client)))
        assert eventually(lambda: not_ready() == [owner.index])
        file.write_bytes(content)
        assert eventually(lambda: not_ready() == [])
        assert client.generate([3], [7])


def refusal_of(client: Client) -> str:
    try:
        client.generate([3], [7])
    except RefusedError as error:
        return str(error)
    return ""


def test_told_to_stop_it_finishes_what_is_under_way(site: Site) -> None:
    with Load(site.where, NEVER, brittle=True) as load:
        load.more(30)
        site.process.send_signal(signal.SIGTERM)
        load.wait()
    assert site.process.wait(60) == 0
    for error in load.errors:
        assert isinstance(error, RefusedError)
        never_taken = "Connection refused|failed to connect|Handshake read failed|^CANCELLED: CANCELLED$"
        assert re.search(never_taken, str(error)), "it got through"
    assert not replicas("ServeReplica:msd-ray")
