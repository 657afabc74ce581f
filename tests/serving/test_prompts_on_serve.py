"""Prompts on Ray Serve: the bits of `generate`, over gRPC and HTTP, and text encoders in gateways alone."""

import base64
import os
import random
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from msd_ray.conditions import ConditionsConfig
from msd_ray.ensemble import Ensemble
from msd_ray.serving.client import Client
from msd_ray.serving.service.ensemble_facts import describe

from ..conditions.test_prompts import LANGUAGES
from ..pipelines import write_text_encoder
from .prompts import PROMPTS, saved_prompts
from .whole import Site, eventually, replicas, started

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]
ASKED = [*PROMPTS, *LANGUAGES, "a red heart", "❤️ 🚗", "two red houses"]


@pytest.fixture(scope="module")
def site(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    import ray

    folder = tmp_path_factory.mktemp("whole")
    with started(folder, ray.get_runtime_context().gcs_address, saved_prompts(folder / "first", 4)) as it:
        yield it


def assert_64_prompts_at_once_are_those_of_generate(site: Site, uri: str) -> None:
    """Half of them asked for over gRPC, half over HTTP, all parts among them."""
    rng, ensemble = random.Random(0), Ensemble.load(uri)
    pairs = [(rng.choice(ASKED), rng.getrandbits(63)) for _ in range(64)]
    with Client(site.where) as client, ThreadPoolExecutor(64) as threads:

        def over_http(text: str, seed: int) -> tuple[bytes, int]:
            body = {"conditions": [text], "seeds": [seed], "format": "float32"}
            (image,) = site.http("/v1/generate", body).json()["images"]
            return base64.b64decode(image["data"]), image["students"][0]

        def over_grpc(text: str, seed: int) -> tuple[bytes, int]:
            (image,) = client.generate([text], [seed], "float32")
            return image.data, image.students[0]

        work = [threads.submit((over_http, over_grpc)[i % 2], *pair) for i, pair in enumerate(pairs)]
        made = [each.result() for each in work]
    assert [data for data, _ in made] == [ensemble.generate([t], [s])[0].numpy().tobytes() for t, s in pairs]
    assert {student for _, student in made} == {0, 1, 2, 3}


def test_groups_of_letters(site: Site) -> None:
    assert_64_prompts_at_once_are_those_of_generate(site, site.uri)
    refused = site.http("/v1/generate", {"conditions": ["a red heart", " "]})
    assert (refused.status_code, refused.json()["field"]) == (400, "conditions[1]")


def test_a_text_encoder_is_loaded_by_gateways_alone(site: Site, tmp_path: Path) -> None:
    write_text_encoder(tmp_path / "pipeline")
    encoder = ConditionsConfig("prompts", {"embedder": "clip", "encoder": str(tmp_path / "pipeline")})
    uri = saved_prompts(tmp_path / "second", 4, (*PROMPTS, *LANGUAGES), encoder)
    site.told("update", uri, "--name", "second")
    with Client(site.where) as client:
        assert eventually(lambda: client.generate(["a red heart"])[0].version == "second")
    assert_64_prompts_at_once_are_those_of_generate(site, uri)
    local = Ensemble.load(uri).generate(["a red heart"], [7])[0].numpy().tobytes()
    weights = tmp_path / "pipeline" / "text_encoder" / "model.safetensors"
    weights.rename(weights.with_suffix(".away"))
    for part in describe(uri).parts:  # their replicas start again, without the encoder
        for process in replicas(f"ServeReplica:msd-ray-part-{part}"):
            os.kill(process.pid, signal.SIGKILL)
    with Client(site.where) as client:
        assert client.generate(["a red heart"], [7], "float32", seconds=120)[0].data == local
        assert {image.students[0] for image in client.generate(ASKED, seconds=120)} == {0, 1, 2, 3}
