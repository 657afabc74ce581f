"""A class and a seed give the same bits, whatever else is asked at the same time."""

import asyncio
import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch

from msd_ray.ensemble import Ensemble, Part, read_description
from msd_ray.networks import DenoiserSpec
from msd_ray.serving.client import Client
from msd_ray.serving.service.batching import positions_show
from msd_ray.serving.service.request import Limits
from msd_ray.storage import Store

from .asking import all_at_once, one_at_a_time, pairs_of
from .conftest import Running, running
from .ensembles import PICTURES, POINTS, saved

N = 120


def test_under_load_every_bit_is_that_of_generate_one_at_a_time(service: Running, tiny: str) -> None:
    pairs = pairs_of(N)
    assert asyncio.run(all_at_once(service.address, pairs)) == one_at_a_time(tiny, pairs)


@pytest.mark.parametrize(
    ("spec", "timesteps", "steps", "n"),
    [(POINTS, 1, 1, 80), (POINTS, 3, 1, 40), (PICTURES, 2, 1, 8), (PICTURES, 1, 2, 8), (POINTS, 2, 4, 20)],
)
def test_other_ensembles_as_well(tmp_path: Path, spec: DenoiserSpec, timesteps: int, steps: int, n: int) -> None:
    uri, pairs = saved(tmp_path, 2, timesteps, spec, steps=steps), pairs_of(n)
    with running([uri], Limits()) as it:
        assert asyncio.run(all_at_once(it.address, pairs)) == one_at_a_time(uri, pairs)


def test_a_stream_has_each_image_once(service: Running) -> None:
    with Client(service.address) as client:
        streamed = sorted(client.stream(range(10), range(10)), key=lambda made: made.index)
        whole = client.generate(range(10), range(10))
    assert [(m.index, m.class_id, m.data) for m in streamed] == [(m.index, m.class_id, m.data) for m in whole]


def test_a_jpeg_is_the_same_over_grpc_and_http(service: Running) -> None:
    with Client(service.address) as client:
        (made,) = client.generate([3], [7], "jpeg")
    assert (made.format, made.picture().format, made.picture().size) == ("jpeg", "JPEG", (8, 8))
    body = {"conditions": [3], "seeds": [7], "format": "jpeg"}
    (image,) = requests.post(f"{service.url}/v1/generate", json=body, timeout=30).json()["images"]
    assert base64.b64decode(image["data"]) == made.data


def test_images_say_who_made_them(service: Running, tiny: str, tmp_path: Path) -> None:
    ensemble = Ensemble.load(tiny)
    with Client(service.address) as client:
        made = client.generate([f"digit {i}" for i in range(10)])
        assert np.array(made[0].picture()).shape == (8, 8)
    owners = ensemble.partition.route(torch.arange(10)).tolist()
    assert [m.students for m in made] == [(owner,) for owner in owners]
    assert len({m.student_version for m in made}) == 3
    relay = saved(tmp_path, 2, 2, POINTS)
    with running([relay], Limits()) as it, Client(it.address) as client:
        assert {m.students for m in client.generate(range(10))} == {(0, 1), (2, 3)}


class Shifty:
    """A part whose samples depend on where they are made, at one position alone."""

    batch_size = 16

    def __init__(self, at: int) -> None:
        self.at = at

    def evaluate(self, pairs: Any, positions: Any, size: int) -> torch.Tensor:
        return torch.tensor(
            [float(seed) + (position == self.at) for (_, seed), position in zip(pairs, positions, strict=True)]
        )


@pytest.mark.parametrize("at", range(16))
def test_the_trial_finds_a_position_that_shows(at: int) -> None:
    assert positions_show(Shifty(at), 0)  # type: ignore[arg-type]
    assert not positions_show(Shifty(-1), 0)  # type: ignore[arg-type]


def test_a_part_of_real_students_makes_the_same_in_any_position_or_is_found_out(tiny: str) -> None:
    part = Part.load(read_description(Store(tiny)), 0)
    free = not positions_show(part, 0)
    pairs = [(0, seed) for seed in range(1000, 1000 + part.batch_size)]
    own = torch.cat([part.evaluate([pair], [part.position_of(pair)], part.batch_size) for pair in pairs[:8]])
    together = part.evaluate(pairs, list(range(part.batch_size)), part.batch_size)[:8]
    assert torch.equal(own, together) or not free


def test_students_that_changed_behind_the_services_back_are_not_served(tmp_path: Path) -> None:
    uri = saved(tmp_path)
    with running([uri], Limits()) as it, Client(it.address) as client:
        saved(tmp_path, weights=(7, 8, 9))
        with pytest.raises(Exception, match="INTERNAL"):
            client.generate([0])


def test_both_clients_work_from_several_threads(service: Running) -> None:
    with Client(service.address) as client, ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda seed: client.generate([1], [seed])[0].data, [5] * 8))
    assert len(set(made)) == 1
