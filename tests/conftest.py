"""What all tests share: a cache of their own, one thread, one Ray cluster on loopback, one S3 server."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from .s3.running import S3, running

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell's background jobs have it, and all that they start
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("untimed", deadline=None)  # how long a machine takes says nothing of the code
settings.load_profile("untimed")
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # before anything imports ray: it stays on 127.0.0.1
os.environ.pop("RAY_ADDRESS", None)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each of some 200 processes would compile all of msd_ray: 0.2 s
PLUGINS = str(Path(__file__).with_name("plugins"))  # a user's own modules, which Ray's workers must find as well
EXAMPLES = str(Path(__file__).parents[1] / "examples")
sys.path[:0] = [PLUGINS, EXAMPLES]
before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
os.environ["PYTHONPATH"] = os.pathsep.join([PLUGINS, EXAMPLES, *before]).rstrip(":")


@pytest.fixture(autouse=True)
def nobody_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may import from a directory what another allowed."""
    monkeypatch.setenv("MSD_RAY_OWN_CODE", "")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or fills the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["MSD_RAY_CACHE"] = str(folder)
    yield folder
    del os.environ["MSD_RAY_CACHE"]


@pytest.fixture(scope="session")
def cluster(cache: Path) -> Iterator[None]:
    """A local Ray cluster with four virtual CPUs."""
    import ray

    ray.init("local", num_cpus=4, include_dashboard=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3]:
    with running() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A quick and reliable server with a bucket `bucket`; whoever may use it stands in the environment."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3_server.behave()
    s3_server.make_bucket("bucket")
    s3_server.requests()
    yield s3_server
    s3_server.behave()
