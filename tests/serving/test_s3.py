"""`msd-ray serve` of an ensemble on S3, where each request takes 50 ms more and every twentieth fails."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from msd_ray.ensemble import Ensemble
from msd_ray.serving.client import Client, Connection
from msd_ray.storage import Store, copy_bundle

from ..s3.running import S3
from .ensembles import saved
from .whole import SERVE, free_ports


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.nightly
def test_an_ensemble_on_s3_is_served_with_the_same_bits(s3: S3, tmp_path: Path) -> None:
    store, ports = Store(s3.uri("bucket/ensembles/the first")), free_ports()
    copy_bundle(Store(saved(tmp_path / "here", 2)), store)
    s3.behave(delay=0.05, every=20)
    line = [*SERVE, store.uri, "--port", str(ports[0]), "--http-port", str(ports[1])]
    service = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    try:
        assert service.stdout
        while not (said := service.stdout.readline()).startswith("update:"):
            assert said, "the service ended"
        with Client(Connection(f"127.0.0.1:{ports[0]}"), seconds=120) as client:
            made = client.generate(list(range(10)), [7] * 10, "float32")
    finally:
        service.terminate()
        service.communicate(timeout=60)
    expected = Ensemble.load(store, torch.device("cpu")).generate(list(range(10)), [7] * 10)
    assert np.array_equal(np.stack([image.array() for image in made]), expected.numpy())
