"""What the benchmarks of the service under load count."""

import asyncio
import os
import random
import socket
import subprocess
import sys
import time
from typing import Any

import pytest
import soak_callers
from serving_overload import recovered_s
from serving_replicas import noticed
from soak_callers import Callers
from soak_memory import Memory

from msd_ray.serving.client import AsyncClient, GeneratedImage, RefusedError
from msd_ray.serving.load.stages import Answer, Outcome, Record, Stage

OK, SHED = Outcome("OK", 1), Outcome("RESOURCE_EXHAUSTED", shed=1)


def record(*answers: Answer) -> Record:
    return Record(Stage(rate=1.0, seconds=3.0), len(answers), list(answers), began=0.0)


def test_a_service_has_recovered_once_three_seconds_in_a_row_are_as_on_a_fresh_one() -> None:
    def light(*took: float | None) -> Record:
        """Each second has one request, which took so long, or was shed."""
        stage = Stage(rate=1.0, seconds=float(len(took)))
        answers = [Answer(i, i, i + (ms or 1.0) / 1000, OK if ms else SHED) for i, ms in enumerate(took)]
        return Record(stage, len(took), answers, began=0.0)

    fresh = light(10.0, 30.5, 20.0)
    assert recovered_s(light(10.0, 20.0, 30.0), fresh) == 0
    assert recovered_s(light(900.0, 31.0, 10.0, 20.0, None, 10.0, 20.0, 30.0, 40.0), fresh) == 5
    assert recovered_s(light(10.0, 20.0, None, 20.0, 10.0), fresh) is None


def test_retries_count_from_a_second_after_the_blow() -> None:
    answers = [Answer(1.9, 1.9, 2.5, Outcome("OK", 1, 4)), Answer(2.1, 2.1, 2.2, Outcome("OK", 1, 1))]

    async def heard() -> dict[str, Any]:
        return noticed(record(*answers, Answer(2.5, 2.5, 2.6, Outcome("UNAVAILABLE", 0, 0))), at=1.0)

    found = asyncio.run(heard())
    assert (found["retries"], found["most_retries_from_1_s"]) == (5, 1)
    assert found["failed"] == {"UNAVAILABLE": 1}


def image(seed: int, data: bytes) -> GeneratedImage:
    said = {"students": (0,), "student_version": "", "queue_ms": 0.0, "compute_ms": 0.0, "format": "float32"}
    return GeneratedImage(index=0, class_id=3, seed=seed, version="v", shape=(1,), data=data, **said)  # type: ignore[arg-type]


def test_callers_notice_wrong_bits_and_calls_that_do_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak_callers, "DEADLINE", 0.05)
    monkeypatch.setattr(soak_callers, "GRACE", 0.05)
    callers = Callers({("v", 3, 0): b"right", ("v", 3, 1): b"other"}, 0)
    kinds = iter(["right", "wrong", "refused", "stuck"])

    async def _exact(client: AsyncClient, rng: random.Random) -> None:
        match next(kinds):
            case "right":
                callers._compare(image(0, b"right"))
            case "wrong":
                callers._compare(image(1, b"right"))
            case "refused":
                raise RefusedError("UNAVAILABLE", "away")
            case _:
                callers._stopping.set()
                await asyncio.sleep(5)

    asyncio.run(callers._repeat(_exact, None, random.Random(0)))  # type: ignore[arg-type]
    assert (callers.images, callers.wrong, callers.stuck) == (2, 1, 1)
    assert (callers.calls["exact"], callers.failed) == (4, {"exact: UNAVAILABLE": 1})


def test_half_open_connections_stay_open_until_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(soak_callers, "SAID", {server.getsockname()[1]: (b"half of",)})
        monkeypatch.setattr(soak_callers, "SILENT", 2)
        held = list[socket.socket]()

        async def three() -> None:
            for _ in range(3):
                assert await soak_callers._hold_another(held, random.Random(0))

        asyncio.run(three())
        first, second = (server.accept()[0] for _ in range(2))
        with pytest.raises(ConnectionResetError):
            read_to_the_end(first)
        assert second.recv(7) == b"half of"
        for connection in (first, second, *held):
            connection.close()


def read_to_the_end(connection: socket.socket) -> None:
    while connection.recv(7):
        pass


GROWS = """
import sys, time
kept = []
while True:
    kept.append(bytearray(b"x") * int(sys.argv[1]))
    time.sleep(0.02)
"""


def test_memory_that_grows_is_seen_in_its_process() -> None:
    flat, growing = (subprocess.Popen([sys.executable, "-c", GROWS, size]) for size in ("0", "500000"))
    with Memory(os.getpid(), 0.05) as memory:
        time.sleep(2.0)
    growth = {name.rpartition(" ")[2]: of["growth"] for name, of in memory.growth(0.5).items()}
    for process in (flat, growing):
        process.kill()
        process.wait()
    assert growth[str(growing.pid)] > 0.3
    assert abs(growth[str(flat.pid)]) < 0.05
