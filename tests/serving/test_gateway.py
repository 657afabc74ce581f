"""The gRPC gateway: health, reflection, tokens, TLS, deadlines, overload, draining."""

import asyncio
import gc
import json
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from msd_ray.errors import UserError
from msd_ray.serving.client import AsyncClient, Client, Connection, RefusedError, Retry
from msd_ray.serving.generated import ensemble_pb2 as pb
from msd_ray.serving.generated import ensemble_pb2_grpc as pb_grpc
from msd_ray.serving.protocol.refusal import away, busy
from msd_ray.serving.service.request import Limits
from msd_ray.serving.service.routing import PartRequest
from msd_ray.serving.service.service import StudentImage

from .certificates import Files, certificates
from .conftest import Running, running

ALONE = (("grpc.use_local_subchannel_pool", 1),)  # so that each client connects anew
NEVER = Retry(tries=1)


class Slow:
    """Students that take their time, and count who waited for nothing."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.cancelled, self.asked = seconds, 0, 0

    async def ask(self, part_request: PartRequest, seconds: float) -> Sequence[StudentImage]:
        self.asked += 1
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return [StudentImage(b"", 0.0, 0.0) for _ in part_request.items]


class Failing:
    """Students that refuse a few times, then answer."""

    def __init__(self, refusals: list[Exception]) -> None:
        self.refusals, self.asked = refusals, 0

    async def ask(self, part_request: PartRequest, seconds: float) -> Sequence[StudentImage]:
        self.asked += 1
        if self.refusals:
            raise self.refusals.pop(0)
        return [StudentImage(b"x", 0.0, 0.0) for _ in part_request.items]


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether it comes to hold, within a time that is plenty."""
    for _ in range(400):
        if holds():
            return True
        time.sleep(0.05)
    return False


def test_a_stock_client_that_knows_only_reflection_can_generate(service: Running) -> None:
    with grpc.insecure_channel(service.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        names = set(database.get_services())
        assert {"msd.v1.EnsembleService", "grpc.health.v1.Health"} < names
        pool = DescriptorPool(database)
        method = pool.FindServiceByName("msd.v1.EnsembleService").FindMethodByName("Generate")
        request, answer = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        call = channel.unary_unary("/msd.v1.EnsembleService/Generate", request.SerializeToString, answer.FromString)
        made: Any = call(request(conditions=[{"class_id": 4}], seeds=[1]), timeout=20)
    assert made.images[0].data.startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["", "msd.v1.EnsembleService"])
def test_health_is_told(service: Running, name: str) -> None:
    with grpc.insecure_channel(service.address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name), timeout=20)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_what_is_served_is_told(service: Running) -> None:
    with Client(service.address) as client:
        client.generate([0], [0])
        told, students = client.ensemble(), client.students()
    (version,) = told.versions
    assert (version.weight, list(version.labels)[:2], list(version.sample_shape)) == (
        1.0,
        ["digit 0", "digit 1"],
        [1, 8, 8],
    )
    assert version.served.images > 0 and version.served.mean_compute_ms > 0
    assert (told.limits.images, told.limits.request_bytes) == (32, 4096)
    assert students.version == version.name
    assert [list(version.students)[c] for s in students.students for c in s.classes] == [
        s.index for s in students.students for _ in s.classes
    ]
    assert students.students[0].sigma_high == float("inf")


def test_only_who_has_a_token_may_ask(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("secret\n")
    with running([tiny], Limits(), tokens=str(tmp_path / "tokens")) as it:
        with Client(Connection(it.address, token="secret")) as client:
            assert client.generate([0])
            assert list(client.stream([0]))
        for token in ("", "wrong", "secre", "secret2"):
            with Client(Connection(it.address, token=token)) as client:
                for call in (client.ensemble, client.students, lambda: client.generate([0])):
                    with pytest.raises(RefusedError) as told:
                        call()
                    assert told.value.code == "UNAUTHENTICATED"
                with pytest.raises(RefusedError):
                    list(client.stream([0]))
        with grpc.insecure_channel(it.address) as channel:
            with pytest.raises(grpc.RpcError) as refused:
                ProtoReflectionDescriptorDatabase(channel).get_services()
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)


def test_tls_and_mutual_tls(tiny: str, tmp_path: Path) -> None:
    files, other = certificates(tmp_path / "a"), certificates(tmp_path / "b")
    tls = {"tls_cert": files.server_cert, "tls_key": files.server_key}
    mine = {"cert": files.client_cert, "key": files.client_key}
    with running([tiny], Limits(), **tls) as it:
        assert answers(Connection(it.address, ca=files.ca))
        assert not answers(Connection(it.address))  # plain text
        assert not answers(Connection(it.address, ca=other.ca))
    with running([tiny], Limits(), **tls, tls_client_ca=files.ca) as it:
        assert answers(Connection(it.address, ca=files.ca, **mine))
        assert not answers(Connection(it.address, ca=files.ca))
        theirs = {"cert": other.client_cert, "key": other.client_key}
        assert not answers(Connection(it.address, ca=files.ca, **theirs))
        assert not answers(Connection(it.address))


def answers(where: Connection) -> bool:
    with Client(where, retry=NEVER, seconds=20) as client:
        try:
            return bool(client.generate([0]))
        except RefusedError as error:
            return error.code != "UNAVAILABLE"


def test_certificates_change_while_the_service_runs(
    tiny: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = certificates(tmp_path / "old"), certificates(tmp_path / "new")
    used = certificates(tmp_path / "used")

    def put(files: Files) -> None:
        for name in ("server_cert", "server_key", "ca"):
            shutil.copy(getattr(files, name), getattr(used, name))

    put(old)
    with running([tiny], Limits(), tls_cert=used.server_cert, tls_key=used.server_key, tls_client_ca=used.ca) as it:
        mine, theirs = (
            Connection(it.address, ca=f.ca, cert=f.client_cert, key=f.client_key, connections=1) for f in (old, new)
        )
        with Client(mine) as connected:
            assert connected.generate([0])
            shutil.copy(new.server_cert, used.server_cert)  # half of it
            assert answers(replace(mine, options=ALONE))
            assert "not a certificate" in caplog.text
            put(new)
            assert answers(replace(theirs, options=ALONE))
            assert not answers(replace(mine, options=ALONE))
            assert connected.generate([0])  # who is connected stays so


def test_certificates_that_are_not_there_are_told(tiny: str) -> None:
    with (
        pytest.raises(UserError, match=r"cannot read nowhere\.pem"),
        running([tiny], Limits(), tls_cert="nowhere.pem", tls_key="nowhere.pem"),
    ):
        pass


def test_deadlines_are_honoured_and_what_is_late_is_dropped(tiny: str) -> None:
    slow = Slow(30)
    with running([tiny], Limits(), slow) as it, Client(it.address) as client:
        with pytest.raises(RefusedError) as told:
            client.generate([0], seconds=0.2)
        assert told.value.code == "DEADLINE_EXCEEDED"
        assert eventually(lambda: slow.cancelled == 1)
        with pytest.raises(RefusedError) as told:
            client.generate([0], seconds=0.0)
        assert told.value.code == "DEADLINE_EXCEEDED"
        with pytest.raises(RefusedError):
            list(client.stream([0, 1], seconds=0.2))
        assert eventually(lambda: slow.cancelled == slow.asked)


def test_the_service_has_a_patience_of_its_own(tiny: str) -> None:
    with running([tiny], Limits(seconds=0.2), Slow(30)) as it, Client(it.address) as client:
        with pytest.raises(RefusedError, match=r"not done within 0\.2 s") as told:
            client.generate([0], seconds=20)
        assert told.value.code == "DEADLINE_EXCEEDED"


def test_a_caller_that_goes_takes_its_work_along(tiny: str) -> None:
    slow = Slow(30)

    async def ask_and_go(address: str) -> None:
        async with AsyncClient(address) as client:
            asked = asyncio.create_task(client.generate([0, 1, 2], [0, 1, 2]))
            while not slow.asked:
                await asyncio.sleep(0.01)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)

    with running([tiny], Limits(), slow) as it:
        asyncio.run(ask_and_go(it.address))
        assert eventually(lambda: slow.cancelled == slow.asked > 0)


def test_streams_cancelled_after_their_first_image_leave_nothing_in_the_log(
    service: Running, caplog: pytest.LogCaptureFixture
) -> None:
    request = pb.GenerateRequest(conditions=[pb.Condition(class_id=i) for i in range(10)], seeds=range(10))

    async def first_of(stub: pb_grpc.EnsembleServiceStub) -> None:
        call = stub.GenerateStream(request)
        async for _ in call:
            call.cancel()
            break

    async def go() -> None:
        async with grpc.aio.insecure_channel(service.address) as channel:
            stub = pb_grpc.EnsembleServiceStub(channel)  # type: ignore[no-untyped-call]
            for _ in range(8):
                await asyncio.gather(*(first_of(stub) for _ in range(10)))

    caplog.set_level("INFO")
    asyncio.run(go())
    assert eventually(lambda: sum("GenerateStream" in line for line in caplog.messages) >= 80)
    with Client(service.address) as client:
        assert len(client.generate([0])) == 1
    gc.collect()  # what nobody refers to any more would complain now
    said = [record.message for record in caplog.records if record.levelname != "INFO"]
    assert [line for line in said if "PollerCompletionQueue" not in line] == []  # grpc: two event loops in one process


def test_clients_try_again_what_may_pass(tiny: str) -> None:
    for error in (away("gone", 0.01), busy("full", 0.01)):
        students = Failing([error, error])
        with running([tiny], Limits(), students) as it:
            with Client(it.address) as client:
                assert client.generate([0])[0].data == b"x"
            assert students.asked == 3
            students.refusals = [error]

            async def ask(address: str) -> int:
                async with AsyncClient(address) as client:
                    return len([made async for made in client.stream([0, 1, 2])])

            assert asyncio.run(ask(it.address)) == 3


def test_clients_try_again_what_an_ending_server_dropped() -> None:
    class Ending(pb_grpc.EnsembleServiceServicer):
        asked = 0

        def GetEnsemble(self, request: Any, context: Any) -> pb.GetEnsembleResponse:  # noqa: N802
            self.asked += 1
            if self.asked < 3:
                context.abort(grpc.StatusCode.CANCELLED, "CANCELLED")
            return pb.GetEnsembleResponse()

    server, servicer = grpc.server(ThreadPoolExecutor(2)), Ending()
    pb_grpc.add_EnsembleServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()

    async def ask() -> pb.GetEnsembleResponse:
        async with AsyncClient(address) as client:
            return await client.ensemble()

    with Client(address) as client:
        assert client.ensemble() == pb.GetEnsembleResponse()
        servicer.asked = 0
        assert asyncio.run(ask()) == pb.GetEnsembleResponse()
        servicer.asked = 0
    with Client(address, retry=NEVER) as client, pytest.raises(RefusedError, match=r"^CANCELLED: CANCELLED$"):
        client.ensemble()
    server.stop(None).wait()


def test_clients_do_not_try_again_what_cannot_pass_or_is_not_to_be(tiny: str) -> None:
    students = Failing([busy("full", 0.01)])
    with running([tiny], Limits(), students) as it, Client(it.address, retry=NEVER) as client:
        with pytest.raises(RefusedError, match=r"full; try again in 0\.01 s") as told:
            client.generate([0])
        assert (told.value.code, students.asked) == ("RESOURCE_EXHAUSTED", 1)
        with pytest.raises(RefusedError) as told:
            client.generate([77])
        assert (told.value.code, students.asked) == ("INVALID_ARGUMENT", 1)


def test_errors_of_ours_are_told_without_their_inside(tiny: str, caplog: pytest.LogCaptureFixture) -> None:
    with (
        running([tiny], Limits(), Failing([ZeroDivisionError("secret/path")])) as it,
        Client(it.address) as client,
        pytest.raises(RefusedError) as told,
    ):
        client.generate([0])
    assert told.value.code == "INTERNAL"
    assert "secret" not in str(told.value) and "ZeroDivision" not in str(told.value)
    assert any(record.exc_info and "secret/path" in str(record.exc_info[1]) for record in caplog.records)


def test_more_calls_than_allowed_are_told_when_to_come_back(tiny: str) -> None:
    async def ask(address: str, retry: Retry) -> list[str]:
        async with AsyncClient(address, retry=retry) as client:
            found = await asyncio.gather(*(client.generate([0]) for _ in range(6)), return_exceptions=True)
        return [str(answer) for answer in found if isinstance(answer, Exception)]

    with running([tiny], Limits(concurrent=3, waiting=1), Slow(1.0)) as it:
        refused = ["RESOURCE_EXHAUSTED: 3 requests are running and 1 wait already; try again in 0.67 s"] * 2
        assert asyncio.run(ask(it.address, NEVER)) == refused
        assert asyncio.run(ask(it.address, Retry())) == []


def test_a_connection_is_given_up_in_time_but_no_request_with_it(tiny: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="msd_ray.access")
    with running([tiny], Limits(), Slow(0.5), connection_seconds=0.1) as it:
        where = Connection(it.address, connections=1)
        with Client(where, retry=NEVER) as client:
            for _ in range(3):
                assert len(client.generate([0, 1], seconds=30.0)) == 2
        asked = [json.loads(line) for line in caplog.messages]
    assert {line["code"] for line in asked} == {"OK"}
    assert len({line["peer"] for line in asked}) > 1


def test_fronts_that_share_a_port_share_a_clients_calls(tiny: str) -> None:
    kinds = Failing([]), Failing([])
    with running([tiny], Limits(), kinds[0]) as one:
        port = int(one.address.rpartition(":")[2])
        with running([tiny], Limits(), kinds[1], port=port), Client(Connection(one.address, connections=16)) as client:
            for _ in range(64):
                client.generate([0])

            async def ask() -> None:
                async with AsyncClient(Connection(one.address, connections=16)) as other:
                    await asyncio.gather(*(other.generate([0]) for _ in range(64)))

            first = [students.asked for students in kinds]
            asyncio.run(ask())
    second = [students.asked - before for students, before in zip(kinds, first, strict=True)]
    assert sum(first) == sum(second) == 64
    assert min(first) >= 4 and min(second) >= 4  # whatever connection reaches a gateway, each has four calls


def test_a_front_that_ends_finishes_what_it_has_begun(tiny: str) -> None:
    slow, threads = Slow(0.6), ThreadPoolExecutor(1)
    with running([tiny], Limits(), slow, drain_seconds=10.0) as it:
        client = Client(it.address, retry=NEVER)
        asked = threads.submit(client.generate, [0, 1])
        assert eventually(lambda: slow.asked > 0)
    assert [made.index for made in asked.result(20)] == [0, 1]
    with pytest.raises(RefusedError, match="UNAVAILABLE"):
        client.generate([0], seconds=5.0)
    client.close()
