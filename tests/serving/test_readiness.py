"""What is said of students that cannot be asked, and to whom asks for them."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import pytest
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc

from msd_ray.serving.client import Client, RefusedError, Retry
from msd_ray.serving.protocol.refusal import Refusal, away
from msd_ray.serving.service.ensemble_facts import describe
from msd_ray.serving.service.readiness import NotReady, Readiness, refusal_of
from msd_ray.serving.service.request import ImageRequest, Limits
from msd_ray.serving.service.routing import Item, PartRequest
from msd_ray.serving.service.service import Service, StudentImage
from msd_ray.serving.service.versions import Traffic, Version

from .conftest import Running, running
from .test_gateway import eventually

NEVER = Retry(tries=1)
WHY = "student-0001.safetensors is damaged: it is missing"


class Sick:
    """Students of which some never answer, as if their replica were stopped. why: of each such part."""

    def __init__(self) -> None:
        self.why, self.asked, self.answer = dict[int, str](), threading.Event(), asyncio.Event()
        self.probes = list[tuple[int, bool]]()

    async def ask(self, part_request: PartRequest, seconds: float) -> Sequence[StudentImage]:
        self.asked.set()
        if part_request.part in self.why:
            await self.answer.wait()
        return [StudentImage(b"x", 0.0, 0.0) for _ in part_request.items]

    async def probe(self, version: Version, part: int, failed: bool) -> str:
        self.probes.append((part, failed))
        return self.why.get(part, "")


def health(it: Running, name: str) -> str:
    with grpc.insecure_channel(it.address) as channel:
        request = health_pb2.HealthCheckRequest(service=name)
        status = health_pb2_grpc.HealthStub(channel).Check(request, timeout=20).status
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(status))


def of_part(version: Version, part: int) -> int:
    """A class whose students are that part."""
    return version.owners.index(part)


@pytest.fixture
def version(tiny: str) -> Version:
    return describe(tiny)


def test_health_says_what_is_true_and_which_student_is_not_ready(tiny: str, version: Version) -> None:
    students = Sick()
    with running([tiny], Limits(), students) as it, Client(it.address) as client:
        assert [health(it, name) for name in ("", "msd.v1.EnsembleService", "msd.v1.gateway")] == ["SERVING"] * 3
        students.why[1] = f"{version.uri}/{WHY}; restore this directory from a copy"
        assert eventually(lambda: health(it, "") == "NOT_SERVING")
        assert health(it, "msd.v1.EnsembleService") == "NOT_SERVING"
        assert health(it, "msd.v1.gateway") == "SERVING"  # another gateway would not do better
        of_parts = [health(it, f"msd.v1.EnsembleService/part-{part}") for part in range(3)]
        assert of_parts == ["SERVING", "NOT_SERVING", "SERVING"]
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            health(it, "msd.v1.EnsembleService/part-3")
        told = {path: requests.get(it.url + path, timeout=30) for path in ("/healthz", "/readyz", "/livez")}
        assert [answer.status_code for answer in told.values()] == [503, 200, 200]
        not_ready = [{"version": version.name, "student": 1}]
        assert told["/healthz"].json() == {"status": "NOT_SERVING", "not_ready": not_ready}
        assert [student.not_ready for student in client.students().students] == ["", WHY, ""]
        assert list(client.ensemble().versions[0].not_ready) == [1]
        students.why.clear()
        assert eventually(lambda: health(it, "") == "SERVING")
        assert requests.get(f"{it.url}/healthz", timeout=30).json() == {"status": "SERVING"}
        assert health(it, "msd.v1.EnsembleService/part-1") == "SERVING"
        assert [student.not_ready for student in client.students().students] == ["", "", ""]


def test_who_asks_for_a_student_that_is_not_ready_is_told_which_and_why(tiny: str, version: Version) -> None:
    students = Sick()
    students.why[1] = "no replica answers"
    classes = ", ".join(map(str, version.ids_of(1)))
    message = f"UNAVAILABLE: student 1 of classes {classes} is not ready: no replica answers; try again"
    with running([tiny], Limits(), students, grace=0.2) as it, Client(it.address, retry=NEVER) as client:
        for _ in range(2):  # the first waits for a moment, the second need not
            with pytest.raises(RefusedError) as told:
                client.generate([of_part(version, 1)], seconds=60)
            assert str(told.value) == message
        with pytest.raises(RefusedError, match="UNAVAILABLE"):
            list(client.stream([of_part(version, 1)]))
        assert client.generate([of_part(version, 0), of_part(version, 2)])
        answer = requests.post(f"{it.url}/v1/generate", json={"conditions": [of_part(version, 1)]}, timeout=30)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert f"UNAVAILABLE: {answer.json()['message']}" == message
        students.why.clear()
        assert eventually(lambda: health(it, "") == "SERVING")
        assert client.generate([of_part(version, 1)])


def test_who_waits_already_when_students_go_away_is_told_too(tiny: str, version: Version) -> None:
    students = Sick()
    with running([tiny], Limits(), students, grace=0.2) as it, Client(it.address, retry=NEVER) as client:
        outcome = list[Exception]()

        def ask() -> None:
            try:
                client.generate([of_part(version, 2)], seconds=60)
            except Exception as error:
                outcome.append(error)

        students.why[2] = ""  # it hangs, but nobody knows yet
        thread = threading.Thread(target=ask)
        thread.start()
        assert students.asked.wait(30)
        students.why[2] = "no replica answers"
        thread.join(30)
    assert [getattr(error, "code", error) for error in outcome] == ["UNAVAILABLE"]


def test_who_has_little_time_is_told_within_it(tiny: str, version: Version) -> None:
    students = Sick()
    students.why[0] = "no replica answers"
    with running([tiny], Limits(), students, grace=1000.0) as it, Client(it.address, retry=NEVER) as client:
        assert eventually(lambda: health(it, "") == "NOT_SERVING")
        with pytest.raises(RefusedError, match=r"UNAVAILABLE: student 0 of classes .* is not ready"):
            client.generate([of_part(version, 0)], seconds=3.0)


def test_students_that_come_back_in_time_are_waited_for(tiny: str, version: Version) -> None:
    async def test() -> None:
        students = Sick()
        service = Service(students, Limits())
        service.traffic = Traffic((version,), (1.0,))
        students.why[0] = "no replica answers"
        await service.probe(0.0)
        asked = asyncio.create_task(service.generate(ImageRequest((of_part(version, 0),), (1,)), 60.0))
        await asyncio.sleep(0.05)
        students.answer.set()
        assert len(await asked) == 1
        assert service.readiness.why(version.parts[0]) == ""

    asyncio.run(test())


def test_a_caller_that_goes_is_not_taken_for_one_that_is_told(tiny: str, version: Version) -> None:
    async def test() -> None:
        readiness, part_request = Readiness(), PartRequest(version, 0, (Item(0, 0, 0),), "png")
        readiness.heard(version.parts[0], "no replica answers")

        async def wait() -> None:
            with readiness.waiting(part_request, 60.0):
                await asyncio.sleep(60)

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(test())


def test_students_are_probed_that_nothing_good_was_heard_of(version: Version) -> None:
    async def test(step: Callable[[Service, Sick], Any]) -> list[tuple[int, bool]]:
        students = Sick()
        service = Service(students, Limits())
        service.traffic = Traffic((version,), (1.0,))
        await service.probe(60.0)
        students.probes.clear()
        await step(service, students)
        return sorted(students.probes)

    async def nothing(service: Service, students: Sick) -> None:
        await service.probe(60.0)

    async def failure(service: Service, students: Sick) -> None:
        students.why[1] = "no replica answers"
        await service.probe(0.0)
        students.probes.clear()
        await service.probe(60.0)

    assert asyncio.run(test(nothing)) == []
    assert asyncio.run(test(failure)) == [(1, True)]


def test_an_image_says_more_than_a_probe_that_began_before(version: Version) -> None:
    async def test() -> str:
        students = Sick()
        service = Service(students, Limits())
        service.traffic = Traffic((version,), (1.0,))

        async def late(version: Version, part: int, failed: bool) -> str:
            await asyncio.sleep(0.01)
            service.readiness.heard(version.parts[part])
            return "no replica answers"

        students.probe = late  # type: ignore[method-assign]
        await service.probe(0.0)
        return service.readiness.why(version.parts[0])

    assert asyncio.run(test()) == ""


def test_a_student_that_refuses_is_not_ready_until_it_answers(version: Version) -> None:
    class Once(Sick):
        async def ask(self, part_request: PartRequest, seconds: float) -> Sequence[StudentImage]:
            if not self.asked.is_set():
                self.asked.set()
                raise away(f"{version.uri}/{WHY}; restore", 0.5)
            return [StudentImage(b"x", 0.0, 0.0)]

    async def test() -> None:
        service = Service(Once(), Limits())
        service.traffic = Traffic((version,), (1.0,))
        image_request = ImageRequest((of_part(version, 1),), (1,))
        with pytest.raises(Refusal, match=f"student 1 of classes .* is not ready: {WHY}; try again"):
            await service.generate(image_request, 60.0)
        assert [found.part for found in service.readiness.not_ready(service.traffic)] == [1]
        assert await service.generate(image_request, 60.0)
        assert service.readiness.not_ready(service.traffic) == []

    asyncio.run(test())


def test_versions_without_traffic_make_nobody_ill(version: Version) -> None:
    async def test() -> None:
        readiness = Readiness()
        readiness.heard(version.parts[0], "no replica answers")
        assert readiness.not_ready(Traffic((version,), (0.0,))) == []
        assert len(readiness.not_ready_of(version)) == 1

    asyncio.run(test())


def test_who_is_not_ready_is_said_in_the_right_number(version: Version, tmp_path: Any) -> None:
    from .ensembles import POINTS, saved

    relay = describe(saved(tmp_path, 2, 2, POINTS))
    said = str(refusal_of(NotReady(relay, 1, "no replica answers")))
    classes = ", ".join(str(c) for c, part in enumerate(relay.owners) if part == 1)
    assert said == f"students 2, 3 of classes {classes} are not ready: no replica answers; try again"
