"""Rates, quotas and turns of callers, as they see them over gRPC and HTTP."""

import asyncio
import json
from pathlib import Path

import grpc
import pytest
import requests

from msd_ray.serving.client import AsyncClient, Client, Connection, RefusedError, Retry
from msd_ray.serving.generated import ensemble_pb2 as pb
from msd_ray.serving.generated import ensemble_pb2_grpc as pb_grpc
from msd_ray.serving.protocol.grpc_status import retry_seconds
from msd_ray.serving.protocol.refusal import Refusal, away
from msd_ray.serving.service.deadline import Deadline
from msd_ray.serving.service.door import Door
from msd_ray.serving.service.request import Limits
from msd_ray.serving.service.tokens import Caller

from .conftest import Running, running
from .test_gateway import NEVER, Failing, Slow, eventually

TOKENS = """
fast   name=alice images_per_second=0.01 burst=3
slow   name=bob   images_per_day=5
free   name=carol images_per_second=0
"""


def file(folder: Path, tokens: str = TOKENS) -> str:
    (folder / "tokens").write_text(tokens)
    return str(folder / "tokens")


def asked(it: Running, token: str, images: int) -> float | None:
    """Over gRPC. Seconds after which to come back, None where it was answered."""
    stub = pb_grpc.EnsembleServiceStub(grpc.insecure_channel(it.address))  # type: ignore[no-untyped-call]
    request = pb.GenerateRequest(conditions=[pb.Condition(class_id=0)] * images)
    try:
        stub.Generate(request, metadata=[("authorization", f"Bearer {token}")])
    except grpc.RpcError as error:
        return retry_seconds(error)
    return None


def posted(it: Running, token: str, images: int) -> requests.Response:
    body, headers = {"conditions": [0] * images}, {"authorization": f"Bearer {token}"}
    return requests.post(f"{it.url}/v1/generate", json=body, headers=headers, timeout=20)


def test_each_token_has_a_rate_and_a_quota_of_its_own(tiny: str, tmp_path: Path) -> None:
    with running([tiny], Limits(images_per_second=0.01, burst=1), Failing([]), tokens=file(tmp_path)) as it:
        assert asked(it, "fast", 3) is None
        assert asked(it, "fast", 1) == pytest.approx(100, abs=5)
        answer = posted(it, "fast", 1)
        assert answer.status_code == 429 and 90 <= int(answer.headers["retry-after"]) <= 100
        assert answer.json()["code"] == "RESOURCE_EXHAUSTED"
        assert posted(it, "fast", 4).status_code == 413  # never, so there is no time to come back
        assert "retry-after" not in posted(it, "fast", 4).headers
        assert [posted(it, "slow", 1).status_code for _ in range(2)] == [200, 429]  # whose rate is of the limits
        assert [posted(it, "free", 4).status_code for _ in range(3)] == [200] * 3


def test_a_quota_of_a_day_is_of_all_ways_together(tiny: str, tmp_path: Path) -> None:
    with running([tiny], Limits(), Failing([]), tokens=file(tmp_path)) as it:
        assert asked(it, "slow", 2) is None
        assert posted(it, "slow", 2).status_code == 200
        left = asked(it, "slow", 2)
        assert left is not None and 0 < left <= 86_400
        answer = posted(it, "slow", 2)
        assert answer.status_code == 429 and 0 < int(answer.headers["retry-after"]) <= 86_400
        assert "5 images a day" in answer.json()["message"]
        assert asked(it, "slow", 1) is None
        with Client(Connection(it.address, token="slow"), seconds=5) as client:
            with pytest.raises(RefusedError, match="RESOURCE_EXHAUSTED"):
                client.generate([0])  # at once: the client does not wait until tomorrow
            assert client.ensemble().versions  # which costs no images


def test_a_request_that_is_wrong_or_fails_does_not_count(tiny: str, tmp_path: Path) -> None:
    with running([tiny], Limits(), Failing([away("gone", 0.01)] * 2), tokens=file(tmp_path)) as it:
        where = Connection(it.address, token="slow")
        with Client(where) as client:
            for _ in range(10):
                with pytest.raises(RefusedError, match="INVALID_ARGUMENT"):
                    client.generate([77] * 5)
            assert len(client.generate([0] * 5)) == 5  # at the third try
            with pytest.raises(RefusedError, match="RESOURCE_EXHAUSTED"):
                client.generate([0])


def test_work_that_was_begun_for_a_caller_counts() -> None:
    async def go(error: BaseException) -> bool:
        door, caller = Door(Limits(images_per_day=3), lambda: 0.0, lambda: 0.0), Caller("a")
        with pytest.raises(type(error)):
            async with door.admitted(caller, 3, Deadline(20)):
                raise error
        try:
            async with door.admitted(caller, 1, Deadline(20)):
                return False
        except Refusal:
            return True

    assert not asyncio.run(go(away("gone")))
    assert not asyncio.run(go(Refusal("INTERNAL", "a bug")))
    assert asyncio.run(go(Refusal("DEADLINE_EXCEEDED", "late")))
    assert asyncio.run(go(asyncio.CancelledError()))
    assert asyncio.run(go(GeneratorExit()))


def test_work_that_only_waited_does_not_count() -> None:
    async def go() -> None:
        door, caller = Door(Limits(images_per_day=6, concurrent=1), lambda: 0.0, lambda: 0.0), Caller("a")

        async def ask(images: int, seconds: float) -> None:
            async with door.admitted(caller, images, Deadline(seconds)):
                await asyncio.sleep(60)

        runs, waits, late = (asyncio.create_task(ask(n, s)) for n, s in ((1, 60), (3, 60), (2, 0.01)))
        with pytest.raises(Refusal, match="not done within"):
            await late
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
        runs.cancel()
        await asyncio.gather(runs, return_exceptions=True)
        async with door.admitted(caller, 5, Deadline(20)):
            pass

    asyncio.run(go())


def test_a_greedy_token_does_not_starve_another(tiny: str, tmp_path: Path) -> None:
    done = list[str]()

    async def ask(client: AsyncClient, name: str) -> None:
        await client.generate([0], [0])
        done.append(name)

    async def go(address: str) -> None:
        async with (
            AsyncClient(Connection(address, token="free")) as greedy,
            AsyncClient(Connection(address, token="modest")) as modest,
        ):
            all_at_once = [asyncio.create_task(ask(greedy, "greedy")) for _ in range(60)]
            while not done:
                await asyncio.sleep(0.01)
            for _ in range(3):
                await ask(modest, "modest")
            await asyncio.gather(*all_at_once)

    with running([tiny], Limits(concurrent=2), Slow(0.05), tokens=file(tmp_path, "free\nmodest")) as it:
        asyncio.run(go(it.address))
    assert len(done) == 63
    assert done.index("modest") < 20 and [i for i, name in enumerate(done) if name == "modest"][-1] < 40


def test_the_deadline_holds_while_a_request_waits_for_its_turn(tiny: str) -> None:
    async def go(address: str) -> str:
        async with AsyncClient(address, retry=NEVER) as client:
            first = asyncio.create_task(client.generate([0], seconds=20))
            await asyncio.sleep(0.2)
            with pytest.raises(RefusedError) as told:
                await client.generate([0], seconds=0.3)
            first.cancel()
        return told.value.code

    slow = Slow(30)
    with running([tiny], Limits(concurrent=1), slow) as it:
        assert asyncio.run(go(it.address)) == "DEADLINE_EXCEEDED"
        assert eventually(lambda: it.service.door.queue.running == it.service.door.queue.waiting == 0)
    assert slow.asked == 1  # the second never reached its student


def test_a_burst_of_abandoned_calls_leaves_nothing_behind(tiny: str, tmp_path: Path) -> None:
    async def go(address: str) -> None:
        async with AsyncClient(Connection(address, token="free"), retry=Retry(tries=1)) as client:
            streams = [asyncio.create_task(drained(client)) for _ in range(100)]
            calls = [asyncio.create_task(client.generate([0, 1], [0, 1])) for _ in range(100)]
            while it.service.door.queue.waiting < 150:
                await asyncio.sleep(0.01)
            for task in streams + calls:
                task.cancel()
            await asyncio.gather(*streams, *calls, return_exceptions=True)

    async def drained(client: AsyncClient) -> int:
        return len([image async for image in client.stream([0, 1], [0, 1])])

    slow = Slow(30)
    with running([tiny], Limits(concurrent=4), slow, tokens=file(tmp_path)) as it:
        asyncio.run(go(it.address))
        queue = it.service.door.queue
        assert eventually(lambda: queue.running == queue.waiting == 0)
        assert slow.asked == slow.cancelled > 0
        slow.seconds = 0.0
        assert asked(it, "free", 2) is None


def test_the_access_log_has_the_name_of_a_token_and_never_the_token(
    tiny: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="msd_ray.access")
    with running([tiny], Limits(), Failing([]), tokens=file(tmp_path, "sesame name=alice")) as it:
        assert asked(it, "sesame", 1) is None
        assert posted(it, "sesame", 1).status_code == 200
        assert posted(it, "wrong", 1).status_code == 401
    assert sorted(json.loads(line)["caller"] for line in caplog.messages) == ["", "alice", "alice"]
    assert "sesame" not in caplog.text and "wrong" not in caplog.text
