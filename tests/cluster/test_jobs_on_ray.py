"""`msd-ray submit --address` on a real cluster: a run, the same command again, a job that fails; a sweep."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from job_cluster import JobCluster, job_cluster  # of benchmarks/

from msd_ray.storage import Store, read_manifest

pytestmark = [pytest.mark.ray, pytest.mark.nightly, pytest.mark.timeout(600)]
TINY = str(Path(__file__).parents[1] / "faults" / "tiny.yaml")


@pytest.fixture(scope="module")
def ray(cache: Path) -> Iterator[JobCluster]:
    with job_cluster() as made:
        yield made


def submit(ray: JobCluster, *words: str, address: str = "") -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `msd-ray submit` from a folder where there is nothing."""
    command = [sys.executable, "-m", "msd_ray", "submit", *words, "--address", address or ray.address]
    environment = ray.env | {"RAY_ADDRESS": "http://127.0.0.1:9"}  # which it must not ask
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd="/", timeout=500)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_a_run_then_the_same_again_then_one_that_fails(ray: JobCluster, tmp_path: Path) -> None:
    train = ["train", TINY, "--run-dir", str(tmp_path / "run")]
    code, out, err = submit(ray, *train)
    assert code == 0, err + out
    assert "msd-ray-tiny is submitted to" in err
    assert "student 0" in out and "student 1" in out, "the driver's lines"
    assert json.loads((tmp_path / "run" / "status.json").read_text())["finished"]
    ensemble = read_manifest(Store(str(tmp_path / "run" / "ensemble")))
    before = (tmp_path / "run" / "ensemble" / "manifest.json").stat().st_mtime_ns

    code, out, err = submit(ray, *train, address=ray.client)
    assert code == 0, err + out
    assert "msd-ray-tiny ended before (SUCCEEDED); it goes on where it stopped" in err
    assert read_manifest(Store(str(tmp_path / "run" / "ensemble"))) == ensemble
    assert (tmp_path / "run" / "ensemble" / "manifest.json").stat().st_mtime_ns == before, "nothing was done again"

    code, out, err = submit(ray, *train, "seed=5", "--name", "other")
    assert code == 1
    last = err.splitlines()[-1]
    assert last.startswith("error: msd-ray-other ended as FAILED with exit code 2: error: ")
    assert "seed" in last, "it says which value is another one in this run directory"


def test_a_sweep(ray: JobCluster, tmp_path: Path) -> None:
    sweep = {"name": "k", "recipe": TINY, "space": {"partition.k": [1, 2]}, "metrics": {"fid": "min"}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    code, out, err = submit(ray, "sweep", str(tmp_path / "sweep.yaml"), "--run-dir", str(tmp_path / "k"))
    assert code == 0, err + out
    command = [sys.executable, "-m", "msd_ray", "sweep", "best", str(tmp_path / "k"), "--json"]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["ensemble"].startswith(str(tmp_path / "k"))
