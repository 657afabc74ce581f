"""The whole service on Ray Serve: what it answers, and that it goes on answering whatever dies or changes."""

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from msd_ray.ensemble import Ensemble
from msd_ray.errors import UserError
from msd_ray.serving.client import Client, Made
from msd_ray.serving.core.load import parse_config

from .ensembles import POINTS, saved

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]


@dataclass
class Site:
    """address: host:port of gRPC. url: of HTTP. uri: of the ensemble served at first."""

    address: str
    url: str
    uri: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def site(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    from msd_ray.serving.graph.start import serving

    uri, port, http_port = saved(tmp_path_factory.mktemp("first"), 2, spec=POINTS), free_port(), free_port()
    config = parse_config({"front": {"port": port, "http_port": http_port}, "students": {"placement": "dedicated"}})
    with serving(uri, config, None, lambda line: None):
        yield Site(f"127.0.0.1:{port}", f"http://127.0.0.1:{http_port}", uri)


@pytest.fixture(scope="module")
def operation(site: Site) -> Any:
    from msd_ray.serving.graph.operation import Operation

    return Operation()


def expected(uri: str, classes: list[int], seeds: list[int]) -> list[bytes]:
    ensemble = Ensemble.load(uri)
    return [ensemble.generate([c], [s])[0].numpy().tobytes() for c, s in zip(classes, seeds, strict=True)]


def test_answers_as_the_ensemble_does(site: Site) -> None:
    classes, seeds = [i % 10 for i in range(40)], [random.Random(i).getrandbits(63) for i in range(40)]
    with Client(site.address) as client:
        made = client.generate(classes, seeds)
        streamed = sorted(client.stream(classes, seeds), key=lambda image: image.index)
    assert [image.data for image in made] == expected(site.uri, classes, seeds)
    assert [image.data for image in streamed] == [image.data for image in made]
    twin = requests.post(f"{site.url}/v1/generate", json={"conditions": [3], "seeds": [seeds[3]]}, timeout=60).json()
    assert twin["images"][0]["student_version"] == made[3].student_version
    assert requests.get(f"{site.url}/healthz", timeout=60).status_code == 200


def test_a_second_service_on_the_same_ports_is_told(site: Site) -> None:
    from msd_ray.serving.core.config import FrontConfig
    from msd_ray.serving.graph.start import refuse_taken

    port = int(site.address.rpartition(":")[2])
    with pytest.raises(UserError, match="choose another --port"):
        refuse_taken(FrontConfig(port=port))


@dataclass
class Load:
    """Threads that ask without a pause, and check nothing: what came back is kept."""

    address: str
    made: list[Made] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(2)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *of_an_error: Any) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        rng = random.Random(number)
        with Client(self.address, seconds=120) as client:
            while not self._stop.is_set():
                classes, seeds = [rng.randrange(10) for _ in range(3)], [rng.randrange(1000) for _ in range(3)]
                try:
                    self.made += client.generate(classes, seeds)
                except Exception as error:
                    self.errors.append(error)

    def wait_for(self, images: int) -> None:
        """Until so many more images have come back."""
        wanted = len(self.made) + images
        assert eventually(lambda: len(self.made) >= wanted), f"only {len(self.made)} of {wanted}; {self.errors}"


def eventually(holds: Callable[[], bool]) -> bool:
    for _ in range(1200):
        if holds():
            return True
        time.sleep(0.1)
    return False


def replicas(name: str) -> list[psutil.Process]:
    """The processes of a Serve application, of this test's own cluster only."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if f"ServeReplica:{name}" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("victim", ["msd-ray-part-", "msd-ray:Front", "msd-ray-ledger"])
def test_whoever_is_killed_no_request_is_lost(site: Site, victim: str) -> None:
    with Load(site.address) as load:
        load.wait_for(30)
        killed = replicas(victim)[0]
        os.kill(killed.pid, signal.SIGKILL)
        load.wait_for(30)
        assert eventually(lambda: any(process.pid != killed.pid for process in replicas(victim)))
        load.wait_for(30)
    assert load.errors == []
    classes, seeds = [image.class_id for image in load.made], [image.seed for image in load.made]
    chosen = random.Random(0).sample(range(len(classes)), 60)
    right = expected(site.uri, [classes[i] for i in chosen], [seeds[i] for i in chosen])
    assert [load.made[i].data for i in chosen] == right


def test_versions_change_under_load_without_a_lost_request(site: Site, operation: Any, tmp_path: Path) -> None:
    second = saved(tmp_path / "second", 2, spec=POINTS, weights=(0, 7))  # student 0 is that of the first
    first_name = operation.current()[0].versions[0].name
    before = {process.pid for process in replicas("msd-ray-part-")}
    with Load(site.address) as load:
        load.wait_for(30)
        canary = operation.update(second, "second", 0.3)
        at = len(load.made)
        load.wait_for(120)
        share = sum(image.version == "second" for image in load.made[at:]) / len(load.made[at:])
        assert before < {process.pid for process in replicas("msd-ray-part-")}
        assert len(replicas("msd-ray-part-")) == 3  # the student that both have runs once
        operation.update(second, "second", 1.0)
        at = len(load.made)
        load.wait_for(30)
        later = {image.version for image in load.made[at + 9 :]}  # what was under way may still be of the first
        operation.roll_back()
        at = len(load.made)
        load.wait_for(30)
        back = {image.version for image in load.made[at + 9 :]}
    assert load.errors == []
    assert [version.name for version in canary.versions] == ["second", first_name]
    assert 0.1 < share < 0.5
    assert (later, back) == ({"second"}, {first_name})
    assert_each_is_of_its_version(load.made, {first_name: site.uri, "second": second})


def assert_each_is_of_its_version(made: list[Made], uris: dict[str, str]) -> None:
    ensembles = {name: Ensemble.load(uri) for name, uri in uris.items()}
    for image in random.Random(0).sample(made, 80):
        right = ensembles[image.version].generate([image.class_id], [image.seed])[0]
        assert image.data == right.numpy().tobytes()


def test_an_update_that_cannot_be_leaves_the_service_as_it_was(site: Site, operation: Any, tmp_path: Path) -> None:
    served = operation.current()[0]
    damaged = saved(tmp_path / "damaged", 2, spec=POINTS, weights=(8, 9))
    (tmp_path / "damaged" / "student-0001.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(UserError, match="do not start"):
        operation.update(damaged)
    with pytest.raises(UserError, match="no ensemble at"):
        operation.update(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="already names another"):
        operation.update(damaged, served.versions[0].name)
    with pytest.raises(UserError, match="no version v9"):
        operation.roll_back("v9")
    assert operation.current()[0] == served
    with Client(site.address) as client:
        assert client.generate([0])[0].version == served.version("").name


def test_few_replicas_may_hold_many_students(site: Site) -> None:
    """A shelf that keeps one part answers for both, in turns."""
    from ray import serve

    from msd_ray.serving.core.describe import describe
    from msd_ray.serving.graph.apps import shelf
    from msd_ray.serving.graph.names import model_id

    version = describe(site.uri)
    handle = serve.run(shelf({"students": {"resident": 1}}), name="shelf", route_prefix=None)
    for class_id in (0, 5, 9, 0):
        part = version.owners[class_id]
        asked = handle.options(multiplexed_model_id=model_id(site.uri, part, version.parts[part]))
        (made,) = asked.make.remote([(class_id, 4)], "float32", 60.0).result(timeout_s=120)
        assert made.data == expected(site.uri, [class_id], [4])[0]
    serve.delete("shelf")
