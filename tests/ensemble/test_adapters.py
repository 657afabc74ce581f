"""Ensembles of adapters: one base on disk and in memory, and what they make."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from msd_ray.conditions import Classes, PartitionConfig, fit
from msd_ray.ensemble import Ensemble, Member, SharedBase, read_description, read_member, save_ensemble
from msd_ray.errors import CorruptError
from msd_ray.networks import Adapter, DenoiserSpec, Kind, MLPConfig, UNetConfig
from msd_ray.networks.adapters import attach, own_parameters, own_tensors
from msd_ray.serving.service.ensemble_facts import part_hash
from msd_ray.storage import MANIFEST, Store, read_manifest, write_bundle
from msd_ray.training.state import bytes_of

torch.set_num_threads(1)

UNET = UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0)
MLP = MLPConfig(width=64, blocks=2)
SHAPES: dict[type, tuple[int, ...]] = {UNetConfig: (1, 8, 8), MLPConfig: (2,)}
LABELS = tuple(map(str, range(10)))
ADAPTER = Adapter(rank=2)
K = 5


def ensemble(network: Kind = MLP) -> Ensemble:
    torch.manual_seed(0)
    spec = DenoiserSpec(network, SHAPES[type(network)], 10)
    denoiser = spec.build()
    for p in denoiser.parameters():
        nn.init.normal_(p, std=0.2)
    base = SharedBase({name: value.clone() for name, value in denoiser.state_dict().items()})
    attach(denoiser, ADAPTER)
    members = [Member(i, spec, 80.0, 640, drawn(denoiser), ADAPTER, base) for i in range(K)]
    return Ensemble({"name": "digits"}, fit(PartitionConfig(K), Classes.numbered(10)), LABELS, members)


def drawn(denoiser: nn.Module) -> dict[str, torch.Tensor]:
    for _, p in own_parameters(denoiser):
        nn.init.normal_(p, std=0.1)
    return {name: value.clone() for name, value in own_tensors(denoiser).items()}


@pytest.fixture
def saved(tmp_path: Path) -> Store:
    store, made = Store(str(tmp_path / "ensemble")), ensemble()
    save_ensemble(store, made.recipe, made.partition, made.labels, made.members)
    return store


@pytest.mark.parametrize("network", [MLP, UNET])
def test_merged_students_make_the_same_samples(network: Kind) -> None:
    made = ensemble(network)
    plain = [member.merged() for member in made.members]
    assert not any(member.adapter or member.base for member in plain)
    other = Ensemble(made.recipe, made.partition, made.labels, plain)
    expected = made.generate(range(10), range(10))
    torch.testing.assert_close(other.generate(range(10), range(10)), expected, rtol=1e-5, atol=1e-5)
    assert len({x.flatten()[0].item() for x in made.generate([0, 2, 4, 6, 8], [7] * 5)}) == 5


def test_the_base_is_stored_once_as_a_plain_network_has_it(saved: Store) -> None:
    manifest, made = read_manifest(saved), ensemble()
    spec, body = made.members[0].spec, manifest.body
    assert (body["format_version"], body["base"]) == (6, "base.safetensors")
    assert {student["adapter"]["rank"] for student in body["students"]} == {2}
    sizes = {name: entry.bytes for name, entry in manifest.files.items()}
    assert sizes["base.safetensors"] == pytest.approx(4 * spec.parameters(), rel=0.1)
    own = 4 * spec.own_parameters(ADAPTER)
    assert all(own < sizes[f"student-{i:04d}.safetensors"] < own + 4000 for i in range(K))
    member = read_member(read_description(saved), 0)
    assert member.base is not None
    replace(member, adapter=None, base=None, weights=member.base.on("cpu")).build(made.conditions)


def test_what_is_loaded_is_what_was_saved_and_shares_its_base(saved: Store) -> None:
    loaded, made = Ensemble.load(saved), ensemble()
    assert loaded.members == made.members
    assert torch.equal(loaded.generate(range(10), range(10)), made.generate(range(10), range(10)))
    students = [student for i in range(K) for student in loaded.part(i)._students]
    held = bytes_of([t for student in students for t in student.state_dict().values()])
    spec = made.members[0].spec
    assert held == 4 * (spec.parameters() + K * spec.own_parameters(ADAPTER)) == 4 * loaded.parameters


def test_parts_that_are_loaded_one_by_one_share_their_base(saved: Store) -> None:
    first, second = (read_member(read_description(Store(saved.uri)), i) for i in (0, 1))
    assert first.base is second.base


def test_a_part_is_another_one_where_its_base_changes(saved: Store, tmp_path: Path) -> None:
    made, store = ensemble(), Store(str(tmp_path / "other"))
    assert made.members[0].base
    moved = SharedBase({name: value + 1 for name, value in made.members[0].base.on("cpu").items()})
    save_ensemble(store, made.recipe, made.partition, made.labels, [replace(m, base=moved) for m in made.members])
    known, other = read_description(saved), read_description(store)
    assert known.manifest.files["student-0000.safetensors"] == other.manifest.files["student-0000.safetensors"]
    assert part_hash(known, 0) != part_hash(other, 0)


def _without_base(store: Store) -> None:
    body = json.loads(store.read(MANIFEST))["body"]
    del body["base"]
    write_bundle(store, body, [])


def _of_another_rank(store: Store) -> None:
    content = json.loads(store.read(MANIFEST))
    for student in content["body"]["students"]:
        student["adapter"]["rank"] = 3
    write_bundle(store, content["body"], [(n, store.read(n)) for n in content["files"]])


@pytest.mark.parametrize("damage", [_without_base, _of_another_rank, lambda s: s.write("base.safetensors", b"x")])
def test_damage_is_one_line(saved: Store, damage: Callable[[Store], None]) -> None:
    damage(saved)
    with pytest.raises(CorruptError):
        Ensemble.load(saved).generate([0], [0])


def test_adapters_without_what_they_change_are_refused() -> None:
    made = ensemble()
    alone = [replace(m, base=None) for m in made.members]
    with pytest.raises(CorruptError, match="adapters need the weights that they change"):
        Ensemble(made.recipe, made.partition, made.labels, alone)
    apart = [replace(m, base=SharedBase({})) for m in made.members]
    with pytest.raises(CorruptError, match="change different weights"):
        Ensemble(made.recipe, made.partition, made.labels, apart)
