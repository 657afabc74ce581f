"""Gateways that have the students in their own processes."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from subprocess import CalledProcessError

import pytest

from msd_ray.serving.client import Client
from msd_ray.serving.service.ensemble_facts import describe

from .asking import pairs_of
from .ensembles import PICTURES, flip_a_bit, saved
from .whole import Load, Site, assert_right, eventually, replicas, started

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]
GATEWAY, STUDENT = "ServeReplica:msd-ray:Gateway", "ServeReplica:msd-ray-part-"


@pytest.fixture(scope="module")
def site(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    import ray

    folder, address = tmp_path_factory.mktemp("own"), ray.get_runtime_context().gcs_address
    with started(folder, address, "", "students.placement=gateway", "keep=1") as it:
        yield it


def test_they_make_the_images_of_the_ensemble_without_any_other_process(site: Site) -> None:
    name = describe(site.uri).name
    pairs = pairs_of(100)
    with Client(site.where) as client:
        made = client.generate([c for c, _ in pairs], [s for _, s in pairs], "float32")
    assert_right(made, {name: site.uri})
    assert site.http("/healthz").json() == {"status": "SERVING"}
    assert replicas(STUDENT) == []


def test_updates_and_deaths_lose_no_request(site: Site, tmp_path: Path) -> None:
    other = saved(tmp_path / "other", 2, spec=PICTURES, weights=(7, 9))
    with Load(site.where) as load:
        load.more(30)
        os.kill(replicas(GATEWAY)[0].pid, signal.SIGKILL)
        load.more(30)
        assert site.told("update", other, "--name", "other") == {"other": 1.0}
        assert eventually(lambda: load.more(3)[-1].version == "other")
    assert load.errors == []
    assert_right(load.made, {describe(site.uri).name: site.uri, "other": other})


def test_a_damaged_version_is_refused_before_gateways_know_it(site: Site, tmp_path: Path) -> None:
    before = site.told("versions")
    damaged = saved(tmp_path / "damaged", 2, spec=PICTURES, weights=(0, 9))
    flip_a_bit(tmp_path / "damaged" / "student-0001.safetensors")
    with pytest.raises(CalledProcessError) as refused:  # not in this process: it would keep a client of this Serve
        site.told("update", damaged)
    assert refused.value.returncode == 2
    assert re.search(r"does not start: .*student-0001\.safetensors", refused.value.stderr)
    assert site.told("versions") == before
