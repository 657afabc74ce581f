"""Serve replaces a replica whose process answers but whose student makes no images any more."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from a_sick_network import FAILS, HANGS, SickMLP

from msd_ray.ensemble import Ensemble
from msd_ray.networks import DenoiserSpec
from msd_ray.serving.client import Client, RefusedError

from .ensembles import saved
from .whole import Site, eventually, replicas, started

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]
STUDENT = "ServeReplica:msd-ray-part-"


@pytest.fixture
def site(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    import ray

    monkeypatch.setenv("MSD_RAY_OWN_CODE", "a_sick_network")
    uri = saved(tmp_path / "sick", 1, spec=DenoiserSpec(SickMLP(folder=str(tmp_path)), (2,), 10))
    with started(tmp_path, ray.get_runtime_context().gcs_address, uri) as it:
        yield it


def test_one_that_fails_or_hangs_is_replaced(site: Site, tmp_path: Path) -> None:
    right = Ensemble.load(site.uri).generate([3], [7])[0].numpy().tobytes()

    def answer() -> bytes | str:
        try:
            return client.generate([3], [7], "float32")[0].data
        except RefusedError as error:
            return error.code

    with Client(site.where) as client:
        assert answer() == right
        (first,) = replicas(STUDENT)
        (tmp_path / FAILS).write_text(str(first.pid))
        assert answer() == "INTERNAL"
        assert eventually(lambda: answer() == right)
        (second,) = replicas(STUDENT)
        assert second.pid != first.pid
        (tmp_path / HANGS).write_text(str(second.pid))
        assert answer() == right  # the gateway waits for another replica
        assert second.pid not in {process.pid for process in replicas(STUDENT)}
