import random
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import fs
from torch import nn

from msd_ray.conditions import Classes, PartitionConfig, fit, spread
from msd_ray.diffusion import one_step
from msd_ray.ensemble import Ensemble, Member, read_description, read_member, save_ensemble
from msd_ray.ensemble.positions import batch_size_for, in_order, in_positions
from msd_ray.errors import CorruptError, UserError
from msd_ray.networks import DenoiserSpec, Kind, MLPConfig, UNetConfig
from msd_ray.rng import stream
from msd_ray.storage import MANIFEST, Store, read_manifest, write_bundle

torch.set_num_threads(1)

UNET = UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0)
MLP = MLPConfig(width=16, blocks=2)
LABELS = tuple(f"digit {i}" for i in range(10))
RECIPE = {"name": "digits", "k": 3}
SHAPES: dict[type, tuple[int, ...]] = {UNetConfig: (1, 8, 8), MLPConfig: (2,)}


def member(index: int, network: Kind) -> Member:
    torch.manual_seed(index)
    spec = DenoiserSpec(network, SHAPES[type(network)], 10)
    denoiser = spec.build()
    for parameter in denoiser.parameters():
        if not parameter.any():  # layers that start as zero would hide what flows into them
            nn.init.normal_(parameter, std=0.1)
    return Member(index, spec, 80.0, 640 + index, denoiser.state_dict())


def ensemble(network: Kind = MLP, k: int = 3) -> Ensemble:
    partition = fit(PartitionConfig(k, "random"), Classes.numbered(10))
    return Ensemble(RECIPE, partition, LABELS, [member(i, network) for i in range(k)])


def save(made: Ensemble, store: Store) -> None:
    save_ensemble(store, made.recipe, made.partition, made.labels, made.members)


@pytest.fixture
def saved(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "ensemble"))
    save(ensemble(), store)
    return store


@pytest.mark.parametrize("network", [MLP, UNET])
@pytest.mark.parametrize("store", [None, Store("bucket/e", fs._MockFileSystem())])
def test_what_is_loaded_is_what_was_saved(network: Kind, store: Store | None, tmp_path: Path) -> None:
    store, made = store or Store(str(tmp_path)), ensemble(network)
    save(made, store)
    loaded = Ensemble.load(store)
    assert (loaded.recipe, loaded.partition, loaded.labels) == (RECIPE, made.partition, LABELS)
    assert loaded.members == made.members
    assert loaded.parameters == sum(m.spec.parameters() for m in made.members)
    assert loaded.sample_shape == SHAPES[type(network)]
    assert torch.equal(loaded.generate(range(10), range(10)), made.generate(range(10), range(10)))


def test_is_loaded_from_a_path(saved: Store) -> None:
    assert Ensemble.load(saved.uri).members == ensemble().members


def test_one_student_can_be_loaded_alone(saved: Store) -> None:
    saved.write("student-0000.safetensors", b"")
    alone = read_member(read_description(saved), 1)
    assert alone == ensemble().members[1]
    assert all(torch.equal(value, ensemble().members[1].read()[name]) for name, value in alone.read().items())


def test_only_the_students_that_are_asked_for_are_read(saved: Store) -> None:
    whole = ensemble()
    (mine, other), seeds = (whole.partition.router.ids_of(i).tolist() for i in (1, 0)), [1, 2, 3]
    saved.write("student-0000.safetensors", b"")
    loaded = Ensemble.load(saved)
    asked = [*mine[:3], *mine[:3]][:3]
    assert torch.equal(loaded.generate(asked, seeds), whole.generate(asked, seeds))
    with pytest.raises(CorruptError, match=r"student-0000\.safetensors is damaged: it has 0 bytes instead of"):
        loaded.generate([mine[0], other[0]], [1, 1])


def test_the_file_of_a_student_is_copied_as_it_is(saved: Store, tmp_path: Path) -> None:
    known = read_description(saved)
    members = [read_member(known, index) for index in range(known.partition.k)]
    copy = Store(str(tmp_path / "copy"))
    save_ensemble(copy, known.recipe, known.partition, known.labels, members)
    assert {name: copy.read(name) for name in copy.names()} == {name: saved.read(name) for name in saved.names()}


@pytest.mark.parametrize("network", [MLP, UNET])
def test_each_condition_is_made_by_its_student_from_its_seed(network: Kind) -> None:
    made = ensemble(network)
    seeds = [100 + condition for condition in range(10)]
    samples = made.generate(range(10), seeds)
    assert samples.shape == (10, *made.sample_shape) and samples.dtype == torch.float32
    for condition, seed in enumerate(seeds):
        z = torch.randn(made.sample_shape, generator=stream("sample", seed))[None]
        by_student = [
            one_step(m.build(made.conditions), z, torch.tensor([condition]), m.sigma_init)[0] for m in made.members
        ]
        errors = [float((samples[condition] - made_by).abs().max()) for made_by in by_student]
        owner = made.partition.router.owners[condition]
        assert errors[owner] < 1e-4
        assert min(errors[:owner] + errors[owner + 1 :]) > 1e-3


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("network", [MLP, MLPConfig(width=128), UNET])
def test_a_sample_does_not_show_what_it_was_generated_with(network: Kind, threads: int) -> None:
    torch.set_num_threads(threads)
    try:
        made, rng = ensemble(network, 2), random.Random(threads)
        n = 40 if threads == 1 else 8  # two threads are slow on a busy machine
        pairs = [(rng.randrange(10), rng.choice([rng.randrange(40), rng.getrandbits(63)])) for _ in range(n)]
        alone = torch.cat([made.generate([condition], [seed]) for condition, seed in pairs])
        for _ in range(12 // threads**2):
            chosen = rng.choices(range(n), k=rng.randint(1, n + 20))
            together = made.generate([pairs[i][0] for i in chosen], [pairs[i][1] for i in chosen])
            assert torch.equal(together, alone[chosen])
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("network", [MLP, UNET])
@pytest.mark.parametrize("batch", [1, 7, 100])
def test_free_batches_differ_by_rounding_only(network: Kind, batch: int) -> None:
    made = ensemble(network)
    conditions, seeds = torch.arange(30) % 10, torch.arange(30)
    torch.testing.assert_close(made.generate(conditions, seeds, batch), made.generate(conditions, seeds))


def test_generates_nothing_where_nothing_is_asked() -> None:
    assert ensemble(UNET).generate([], []).shape == (0, 1, 8, 8)


def test_generating_leaves_the_global_random_state_and_needs_no_gradients() -> None:
    made = ensemble()
    before = torch.get_rng_state()
    assert not made.generate([0], [0]).requires_grad
    assert torch.equal(torch.get_rng_state(), before)


BAD: list[tuple[Any, Any, str]] = [
    ([0, 1], [0], "2 conditions but 1 seeds"),
    ([10], [0], "no condition 10: valid ones are 0 to 9"),
    ([-1], [0], "no condition -1"),
    ([2**70], [0], "no such condition"),
    ([0.0], [0], "conditions must be a list of integers"),
    ([0], [1.5], "seeds must be a list of integers"),
    ([0], [-1], "seeds must be from 0 to 9223372036854775807, not -1"),
    ([0], [2**63], "seeds must be from 0 to 9223372036854775807, not 9223372036854775808"),
    (["0"], [0], "integers"),
    (3, [0], "integers"),
    (torch.tensor([0.0]), [0], "integers"),
    (torch.tensor([[0]]), [0], "integers"),
    (torch.tensor(0), [0], "integers"),
]


@pytest.mark.parametrize(("conditions", "seeds", "why"), BAD)
def test_bad_requests_are_told(conditions: Any, seeds: Any, why: str) -> None:
    with pytest.raises(UserError, match=why):
        ensemble().generate(conditions, seeds)


def test_batches_follow_from_the_network_and_positions_are_never_shared() -> None:
    assert [batch_size_for(p, n) for p, n in [(1, 1), (200_000, 64), (2_000_000, 64), (55_000_000, 1024)]] == [
        64,
        64,
        4,
        1,
    ]
    rng = random.Random(0)
    positions = [spread(rng.randrange(10), rng.getrandbits(64) - 2**63, 8) for _ in range(50)]
    seen: list[int] = []
    for evaluation in in_positions(positions, 8):
        assert evaluation.size == 8 and len(set(evaluation.positions)) == len(evaluation.positions)
        assert evaluation.positions == [positions[sample] for sample in evaluation.samples]
        seen += evaluation.samples
    assert sorted(seen) == list(range(50))
    assert [e.samples for e in in_order(5, 2)] == [[0, 1], [2, 3], [4]]


def test_no_ensemble(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no ensemble at {tmp_path}/nowhere"):
        Ensemble.load(str(tmp_path / "nowhere"))


def test_another_bundle_is_no_ensemble(tmp_path: Path) -> None:
    write_bundle(Store(str(tmp_path)), {"parts": []}, [])
    with pytest.raises(UserError, match="no ensemble"):
        Ensemble.load(str(tmp_path))


def test_a_newer_format_is_refused(saved: Store) -> None:
    write_bundle(saved, {"format_version": 8, "other": 1}, [])
    with pytest.raises(UserError, match=r"written by a newer msd_ray \(format 8, this one reads 7\): upgrade"):
        Ensemble.load(saved)


def test_any_damage_is_told_and_never_gives_wrong_weights(saved: Store) -> None:
    rng, names = random.Random(0), saved.names()
    assert len(names) == 4
    for trial in range(100):
        name = names[trial % 4]
        intact = saved.read(name)
        at = rng.randrange(len(intact))
        flipped = intact[:at] + bytes([intact[at] ^ rng.randrange(1, 256)]) + intact[at + 1 :]
        saved.write(name, rng.choice([intact[:at], flipped]))
        with pytest.raises((CorruptError, UserError)) as told:
            Ensemble.load(saved).generate(range(10), range(10))
        assert name in str(told.value) and "\n" not in str(told.value)
        saved.write(name, intact)
    for name in names:
        intact = saved.read(name)
        saved.delete(name)
        with pytest.raises((CorruptError, UserError)):
            Ensemble.load(saved).generate(range(10), range(10))
        saved.write(name, intact)
    assert Ensemble.load(saved).members == ensemble().members


def _edit(body: dict[str, Any], path: list[Any], value: Any) -> None:
    for key in path[:-1]:
        body = body[key]
    body[path[-1]] = value


EDITS: list[tuple[list[Any], Any]] = [
    (["partition", "owners"], [0] * 10),
    (["partition"], None),
    (["labels"], ["one"]),
    (["labels"], 1),
    (["recipe"], 1),
    (["sampling"], None),
    (["sampling"], "heun"),
    (["sampling"], {"kind": "heun"}),
    (["sampling"], {"kind": "heun", "steps": 18, "noise": {"sigma_min": "low"}}),
    (["sampling"], {"kind": "heun", "steps": "18", "noise": {}}),
    (["sampling"], {"kind": "heun", "steps": 2, "noise": {}}),
    (["sampling"], {"kind": "euler", "steps": 18, "noise": {}}),
    (["sampling"], {"kind": [], "steps": 18, "noise": {}}),
    (["sampling"], {"kind": "heun", "steps": 18, "noise": {"sigma_min": 90.0}}),
    (["sampling"], {"kind": "heun", "steps": 18, "noise": {"sigma_data": None}}),
    (["sampling"], {"kind": "heun", "steps": 18, "noise": {}, "speed": 1}),
    (["partition", "borders"], [1.0]),
    (["students"], []),
    (["students"], {}),
    (["students", 0, "index"], 1),
    (["students", 0, "conditions"], [0]),
    (["students", 0, "conditions"], 0),
    (["students", 0, "file"], "student-0009.safetensors"),
    (["students", 0, "sigma_init"], "much"),
    (["students", 0, "spec"], {}),
    (["students", 0, "spec", "classes"], 9),
    (["students", 0, "spec", "network", "width"], 20),
    (["students", 0, "spec", "network", "kind"], "rnn"),
    (["students", 0, "spec", "sample_shape"], [3]),
    (["students", 0, "spec", "sample_shape"], [1, 8, 8]),
]


@pytest.mark.parametrize(("path", "value"), EDITS)
def test_a_manifest_that_contradicts_itself_is_corrupt(saved: Store, path: list[Any], value: Any) -> None:
    manifest = read_manifest(saved)
    files = [(name, saved.read(name)) for name in manifest.files]
    _edit(manifest.body, path, value)
    write_bundle(saved, manifest.body, files)
    with pytest.raises(CorruptError) as told:
        Ensemble.load(saved).generate(range(10), range(10))
    assert "\n" not in str(told.value)


def test_a_save_cut_short_leaves_no_ensemble(saved: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Store.write

    def dying(self: Store, name: str, data: bytes) -> None:
        if name == MANIFEST:
            raise KeyboardInterrupt
        write(self, name, data)

    monkeypatch.setattr(Store, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        save(ensemble(), saved)
    monkeypatch.undo()
    with pytest.raises(UserError, match="no ensemble"):
        Ensemble.load(saved)


def test_contradicting_parts_are_not_saved(tmp_path: Path) -> None:
    made, store = ensemble(), Store(str(tmp_path))
    with pytest.raises(ValueError, match="9 labels for 10"):
        save_ensemble(store, RECIPE, made.partition, LABELS[:9], made.members)
    with pytest.raises(ValueError, match="students 0 to 2"):
        save_ensemble(store, RECIPE, made.partition, LABELS, made.members[:2])
    assert store.names() == []
