"""What a replica finds out about its evaluations, and what it then promises of its images."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msd_ray.ensemble import Ensemble, Part, read_description
from msd_ray.ensemble.kernels import LARGE, as_in_large_batches
from msd_ray.errors import CorruptError, UserError
from msd_ray.networks import DenoiserSpec, UNetConfig
from msd_ray.serving.client import Client
from msd_ray.serving.service.batching import Batching, batched, exact
from msd_ray.serving.service.config import StudentConfig, parse_config
from msd_ray.serving.service.ensemble_facts import part_hash
from msd_ray.serving.service.request import Limits
from msd_ray.storage import Store, read_manifest, write_bundle

from .asking import all_at_once, one_at_a_time, pairs_of
from .conftest import LocalStudents, Running, running
from .ensembles import PICTURES, POINTS, saved

LARGER = DenoiserSpec(UNetConfig(channels=40, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0), (1, 8, 8), 10)


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Students whose evaluations have few positions."""
    return saved(tmp_path_factory.mktemp("larger"), 2, spec=LARGER)


def test_an_ensemble_says_what_it_promises(tiny: str, larger: str) -> None:
    assert [read_description(Store(uri)).batching for uri in (tiny, larger)] == ["exact", "batched"]


def test_an_older_ensemble_is_exact_and_keeps_its_name(larger: str, tmp_path: Path) -> None:
    known, store = read_description(Store(larger)), Store(str(tmp_path))
    body = {key: value for key, value in known.manifest.body.items() if key != "batching"}
    write_bundle(store, body, [(name, known.store.read(name)) for name in known.manifest.files])
    old = read_description(store)
    assert old.batching == "exact" and part_hash(old, 0) != part_hash(known, 0)
    assert part_hash(old, 0) == part_hash(replace(known, batching="exact"), 0)
    assert torch.equal(Ensemble.load(store).generate([3], [4]), Ensemble.load(larger).generate([3], [4]))


def test_a_promise_that_there_is_not_is_damage(larger: str, tmp_path: Path) -> None:
    manifest, store = read_manifest(Store(larger)), Store(str(tmp_path))
    write_bundle(store, manifest.body | {"batching": "mostly"}, [])
    with pytest.raises(CorruptError, match="no batching 'mostly'"):
        read_description(store)


def test_batched_images_stay_within_their_bound(larger: str) -> None:
    pairs = pairs_of(40)
    with running([larger], Limits(), LocalStudents(StudentConfig(batch=8))) as it:
        together = asyncio.run(all_at_once(it.address, pairs))
        with Client(it.address) as client:
            (made,) = client.generate([3], [5])
    assert made.batching == "batched" and 0 < made.bound < 1e-3
    assert largest_difference(together, one_at_a_time(larger, pairs)) <= made.bound


def largest_difference(made: list[bytes], right: list[bytes]) -> float:
    x, y = (torch.frombuffer(bytearray(b"".join(each)), dtype=torch.float32) for each in (made, right))
    return float((x - y).abs().max())


def test_large_students_can_be_exact(larger: str) -> None:
    pairs = pairs_of(20)
    with running([larger], Limits(), LocalStudents(StudentConfig(batching="exact"))) as it:
        assert asyncio.run(all_at_once(it.address, pairs)) == one_at_a_time(larger, pairs)
        with Client(it.address) as client:
            (made,) = client.generate([3], [5])
    assert (made.batching, made.bound) == ("exact", 0.0)


def test_bf16_is_batched_and_says_how_far_off_it_is(tiny: str) -> None:
    pairs = pairs_of(12)
    with running([tiny], Limits(), LocalStudents(StudentConfig(precision="bf16", batch=8))) as it:
        together = asyncio.run(all_at_once(it.address, pairs))
        with Client(it.address) as client:
            (made,) = client.generate([3], [5])
    assert made.batching == "batched" and 1e-4 < made.bound < 1
    assert 1e-4 < largest_difference(together, one_at_a_time(tiny, pairs)) <= made.bound


def test_bf16_cannot_be_exact() -> None:
    with pytest.raises(UserError, match="bf16 changes more than the last bits"):
        parse_config({"students": {"precision": "bf16", "batching": "exact"}})


def test_small_students_are_exact(service: Running) -> None:
    with Client(service.address) as client:
        (made,) = client.generate([3], [5])
    assert (made.batching, made.bound) == ("exact", 0.0)


@pytest.mark.parametrize("spec", [PICTURES, POINTS])
def test_every_size_that_is_found_gives_the_bits_of_generate(tmp_path: Path, spec: DenoiserSpec) -> None:
    part = Part.load(read_description(Store(saved(tmp_path, 1, spec=spec))), 0)
    found = exact(part, 0)
    assert found.most == part.batch_size and list(found.sizes) == sorted(found.sizes)
    ids: list[Any] = [(3, seed) for seed in range(1000, 1000 + part.batch_size)]
    right = part.generate(ids)
    for size in found.sizes if found.free else ():
        for n in {1, size // 2 + 1, size}:
            assert torch.equal(part.evaluate(ids[:n], range(n), size), right[:n])


@torch.no_grad()
def test_one_kernel_for_all_sizes_leaves_large_batches_as_they_are() -> None:
    threads = torch.get_num_threads()
    layers = nn.Sequential(
        nn.Conv2d(8, 24, 1), nn.SiLU(), nn.Conv2d(24, 8, 3, padding=1), nn.Conv2d(8, 8, 1, bias=False)
    )
    torch.set_num_threads(1)
    try:
        x = torch.randn(LARGE, 8, 4, 4)
        before, alone = layers(x), layers(x[:3])
        as_in_large_batches(layers)
        assert torch.equal(layers(x), before)
        assert torch.allclose(layers(x[:3]), alone, atol=1e-5)
    finally:
        torch.set_num_threads(threads)


class Slow:
    """A part whose evaluations take `least` seconds of its own clock and `each` more for every sample. Its samples are
    their seeds, and off by a thousandth in evaluations of more than two."""

    device, batch_size, batching = torch.device("cpu"), 1, "batched"

    def __init__(self, least: float, each: float) -> None:
        self.least, self.each, self.now = least, each, 0.0
        self.sizes: list[int] = []

    def evaluate(self, sample_ids: Sequence[Any], positions: Sequence[int], size: int) -> Tensor:
        self.sizes.append(size)
        self.now += self.least + self.each * size
        return torch.tensor([float(seed) for _, seed in sample_ids]) + 0.001 * (size > 2)

    def thread_time(self) -> float:
        return self.now


Try = Callable[..., Batching]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Try:
    def work(part: Any, seconds: float, most: int = 64) -> Batching:
        monkeypatch.setattr("msd_ray.serving.service.batching.time", part)
        return batched(part, 0, most, seconds, torch.arange(4.0))

    return work


def test_evaluations_grow_as_long_as_that_pays(found: Try) -> None:
    assert found(Slow(0.02, 0.0), 1.0).sizes == tuple(range(1, 65))
    assert found(Slow(0.02, 0.0), 1.0, most=5).most == 4
    assert found(Slow(0.0, 0.02), 1.0).most == 1
    assert found(Slow(0.03, 0.01), 1.0).most == 32  # 64 would take 4 % less per sample


def test_evaluations_grow_as_long_as_they_may_take(found: Try) -> None:
    part = Slow(0.02, 0.02)
    assert found(part, 0.1).most == 2
    assert max(part.sizes) == 2  # not even tried: 4 might take longer
    assert found(Slow(0.2, 0.0), 0.1).most == 1


def test_evaluations_grow_as_long_as_there_is_memory(found: Try, monkeypatch: pytest.MonkeyPatch) -> None:
    part = Slow(0.001, 0.0)
    monkeypatch.setattr("msd_ray.serving.service.batching._memory", lambda _: 1000 * max([0, *part.sizes]))
    monkeypatch.setattr("msd_ray.serving.service.batching.free_memory", lambda _: 20_000)
    assert found(part, 1.0).most == 16


def test_the_bound_is_four_times_what_was_seen(found: Try) -> None:
    assert found(Slow(0.001, 0.0), 1.0, most=2).bound == 0
    assert found(Slow(0.001, 0.0), 1.0, most=8).bound == pytest.approx(0.004, rel=1e-3)
