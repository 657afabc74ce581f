"""Ensembles whose students share the noise levels, and hand x_t on to each other at the borders."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msd_ray.conditions import Classes, PartitionConfig, fit
from msd_ray.diffusion import Denoiser, Noise, ddim, heun, one_step, per_sample
from msd_ray.ensemble import ONE_STEP, Ensemble, Member, Part, Sampling, read_description, save_ensemble, seeded_noise
from msd_ray.errors import CorruptError, UserError
from msd_ray.networks import DenoiserSpec, Kind, MLPConfig, UNetConfig
from msd_ray.storage import Store, read_manifest, write_bundle

torch.set_num_threads(1)

NOISE = Noise(sigma_max=20.0)
HEUN = Sampling("heun", 5, NOISE)
LABELS = ("a", "b", "c", "d")
MLP, UNET = MLPConfig(width=16, blocks=2), UNetConfig(channels=4, multipliers=(1, 2), blocks=1, attention=(), dropout=0)
SHAPES: dict[type, tuple[int, ...]] = {UNetConfig: (1, 4, 4), MLPConfig: (2,)}
SAMPLERS = {"heun": heun, "ddim": ddim}


def member(index: int, network: Kind = MLP, weights: int = 0) -> Member:
    """A student of random weights; students of the same `weights` are the same denoiser."""
    torch.manual_seed(weights)
    spec = DenoiserSpec(network, SHAPES[type(network)], len(LABELS))
    denoiser = spec.build()
    for parameter in denoiser.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return Member(index, spec, 80.0, 640, denoiser.state_dict())


def ensemble(
    timesteps: int, k: int = 1, network: Kind = MLP, same: bool = False, sampling: Sampling = HEUN
) -> Ensemble:
    partition = fit(PartitionConfig(k, timesteps=timesteps), Classes.numbered(len(LABELS)), noise=NOISE)
    members = [member(i, network, 0 if same else i) for i in range(partition.k)]
    return Ensemble({"name": "x"}, partition, LABELS, members, sampling=sampling)


def parts_of(made: Ensemble) -> list[Part]:
    return [made.part(number) for number in range(made.partition.parts)]


class Spy:
    """A student that notes the levels and conditions that it is asked for, sample by sample."""

    def __init__(self, student: Denoiser) -> None:
        self.student, self.asked = student, list[tuple[float, int]]()

    def __call__(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        self.asked += zip(sigma.tolist(), condition.tolist(), strict=True)
        return self.student(x_t, sigma, condition)


def spied(made: Ensemble) -> list[Spy]:
    return replaced(made, Spy)


def replaced(made: Ensemble, by: type[Spy]) -> list[Spy]:
    """Puts another denoiser in the place of each student; gives the new ones, in order."""
    for part in parts_of(made):
        part._students = [by(student) for student in part._students]  # type: ignore[misc]
    return [student for part in parts_of(made) for student in part._students]  # type: ignore[misc]


class Gaussian(Spy):
    """The optimal denoiser of data N(mean, 0.25 I), one mean per condition."""

    def __init__(self, student: Denoiser) -> None:
        super().__init__(student)
        self.mean = torch.tensor([[1.0, -1.0], [0.0, 2.0], [3.0, 0.0], [-2.0, -2.0]])

    def __call__(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        s2 = per_sample(sigma, x_t) ** 2
        return (0.25 * x_t + s2 * self.mean[condition]) / (0.25 + s2)


@pytest.mark.parametrize("network", [MLP, UNET])
@pytest.mark.parametrize("kind", ["heun", "ddim"])
@pytest.mark.parametrize(("timesteps", "k"), [(1, 1), (2, 1), (4, 1), (2, 2), (1, 4)])
def test_students_that_are_all_alike_are_one_denoiser(timesteps: int, k: int, kind: str, network: Kind) -> None:
    made, seeds = ensemble(timesteps, k, network, same=True), list(range(20))
    condition = torch.arange(20) % len(LABELS)
    samples = made.generate(condition, seeds, sampler=kind, steps=6)
    alone = SAMPLERS[kind](
        made.members[0].build(made.conditions), seeded_noise(seeds, made.sample_shape), condition, NOISE, 6
    )
    torch.testing.assert_close(samples, alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made.generate(condition, seeds, 8, kind, 6), samples)


@pytest.mark.parametrize("kind", ["heun", "ddim"])
def test_gaussians_handed_from_student_to_student_come_out_as_gaussians(kind: str) -> None:
    made = ensemble(3, 2)
    replaced(made, Gaussian)
    condition, seeds = torch.arange(8) % 4, list(range(8))
    expected = SAMPLERS[kind](
        Gaussian(made.members[0].build(made.conditions)), seeded_noise(seeds, (2,)), condition, NOISE, 18
    )
    torch.testing.assert_close(made.generate(condition, seeds, sampler=kind, steps=18), expected, rtol=1e-5, atol=1e-5)


def test_students_that_differ_all_have_a_say() -> None:
    made = ensemble(3)
    samples = made.generate([0, 1, 2, 3], [4, 5, 6, 7])
    for other in range(3):
        changed = [replace(m, weights=member(0, weights=9).weights) if m.index == other else m for m in made.members]
        again = Ensemble({}, made.partition, LABELS, changed, sampling=HEUN).generate([0, 1, 2, 3], [4, 5, 6, 7])
        assert ((samples - again).abs().amax(dim=1) > 1e-4).all()


@pytest.mark.parametrize(("kind", "steps"), [("heun", 3), ("heun", 5), ("heun", 9), ("heun", 18), ("ddim", 35)])
@pytest.mark.parametrize(("timesteps", "k"), [(1, 1), (2, 1), (3, 2), (4, 1)])
def test_each_student_is_asked_for_its_own_levels_and_conditions_as_often_as_claimed(
    timesteps: int, k: int, kind: str, steps: int
) -> None:
    made = ensemble(timesteps, k, sampling=Sampling(kind, steps, NOISE))
    spies, condition = spied(made), torch.arange(12) % len(LABELS)
    made.generate(condition, range(12), batch=12)
    for student, spy in enumerate(spies):
        low, high = made.partition.interval_of(student)
        assert all(low < sigma <= high for sigma, _ in spy.asked)
        assert {c for _, c in spy.asked} <= set(made.partition.router.ids_of(student // timesteps).tolist())
    assert 5 <= made.nfe <= 35
    assert sum(len(spy.asked) for spy in spies) == 12 * made.nfe
    levels = {sigma for spy in spies for sigma, _ in spy.asked}
    assert levels == set(NOISE.grid(steps).tolist())
    assert all(spy.asked for spy in spies) == (steps >= timesteps)


@pytest.mark.parametrize("network", [MLP, UNET])
@pytest.mark.parametrize(("timesteps", "k"), [(1, 2), (3, 1), (2, 2)])
def test_a_sample_does_not_show_what_it_was_generated_with(timesteps: int, k: int, network: Kind) -> None:
    made, rng = ensemble(timesteps, k, network, sampling=Sampling("heun", 3, NOISE)), random.Random(timesteps)
    pairs = [(rng.randrange(4), rng.choice([rng.randrange(40), rng.getrandbits(63)])) for _ in range(12)]
    alone = torch.cat([made.generate([condition], [seed]) for condition, seed in pairs])
    for _ in range(4):
        chosen = rng.choices(range(12), k=rng.randint(1, 24))
        together = made.generate([pairs[i][0] for i in chosen], [pairs[i][1] for i in chosen])
        assert torch.equal(together, alone[chosen])


def test_the_largest_student_of_a_part_decides_on_its_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    partition = fit(PartitionConfig(2, timesteps=2), Classes.numbered(len(LABELS)), noise=NOISE)
    widths = [8, 64, 16, 16]
    members = [member(i, MLPConfig(width=w, blocks=2)) for i, w in enumerate(widths)]
    seen: list[int] = []

    def batch_size_for(parameters: int, pixels: int) -> int:
        seen.append(parameters)
        return 4

    monkeypatch.setattr("msd_ray.ensemble.part.batch_size_for", batch_size_for)
    made = Ensemble({}, partition, LABELS, members, sampling=HEUN)
    assert [part.batch_size for part in parts_of(made)] == [4, 4]
    assert seen == [members[1].spec.parameters(), members[2].spec.parameters()]


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    store, made = Store(str(tmp_path)), ensemble(3, 2)
    save_ensemble(store, made.recipe, made.partition, made.labels, made.members, made.sampling)
    loaded = Ensemble.load(store)
    assert (loaded.partition, loaded.sampling, loaded.nfe) == (made.partition, HEUN, 9)
    assert loaded.members == made.members
    assert torch.equal(loaded.generate(range(4), range(4)), made.generate(range(4), range(4)))
    assert read_description(store).sampling == HEUN


def test_whole_numbers_in_the_schedule_survive(tmp_path: Path) -> None:
    store, made = Store(str(tmp_path)), ensemble(2, sampling=Sampling("ddim", 6, Noise(sigma_max=20, rho=7)))
    save_ensemble(store, made.recipe, made.partition, made.labels, made.members, made.sampling)
    assert Ensemble.load(store).sampling == made.sampling


def test_ensembles_of_the_first_formats_are_read(tmp_path: Path) -> None:
    store, made = Store(str(tmp_path)), ensemble(1, 2, sampling=ONE_STEP)
    save_ensemble(store, made.recipe, made.partition, made.labels, made.members)
    manifest = read_manifest(store)
    assert manifest.body["format_version"] == 3
    assert [(s["part"], s["conditions"]) for s in manifest.body["students"]] == [(0, 2), (1, 2)]
    del manifest.body["sampling"]  # as those wrote it
    for student in manifest.body["students"]:
        student["conditions"] = made.partition.router.ids_of(student.pop("part")).tolist()
    write_bundle(store, manifest.body, [(name, store.read(name)) for name in manifest.files])
    loaded = Ensemble.load(store)
    assert (loaded.sampling, loaded.nfe, loaded.members) == (ONE_STEP, 1, made.members)
    assert torch.equal(loaded.generate([0, 3], [1, 2]), made.generate([0, 3], [1, 2]))


def test_a_student_of_an_old_format_that_has_other_conditions_is_refused(tmp_path: Path) -> None:
    store, made = Store(str(tmp_path)), ensemble(1, 2, sampling=ONE_STEP)
    save_ensemble(store, made.recipe, made.partition, made.labels, made.members)
    manifest = read_manifest(store)
    for owned in ([0, 3], [0], 3):
        manifest.body["students"][1]["conditions"] = owned
        write_bundle(store, manifest.body, [(name, store.read(name)) for name in manifest.files])
        with pytest.raises(CorruptError, match="student 1 was trained on other conditions"):
            Ensemble.load(store)


def test_another_preconditioning_is_kept(tmp_path: Path) -> None:
    store, partition = Store(str(tmp_path)), fit(PartitionConfig(1), Classes.numbered(len(LABELS)))
    plain = member(0)
    other = replace(plain, spec=replace(plain.spec, sigma_min=0.5))
    save_ensemble(store, {}, partition, LABELS, [other])
    loaded = Ensemble.load(store)
    assert loaded.members[0].spec.sigma_min == 0.5
    torch.testing.assert_close(
        loaded.generate([1], [3]),
        one_step(other.build(loaded.conditions), seeded_noise([3], (2,)), torch.tensor([1]), 80.0),
    )


def test_every_damage_to_the_manifest_is_told(tmp_path: Path) -> None:
    store, made, rng = Store(str(tmp_path)), ensemble(2), random.Random(0)
    save_ensemble(store, made.recipe, made.partition, made.labels, made.members, made.sampling)
    intact = store.read("manifest.json")
    for _ in range(100):
        at = rng.randrange(len(intact))
        flipped = intact[:at] + bytes([intact[at] ^ rng.randrange(1, 256)]) + intact[at + 1 :]
        store.write("manifest.json", flipped)
        with pytest.raises(CorruptError):
            Ensemble.load(store)


REFUSED: list[tuple[str | None, int | None, str]] = [
    ("heun", 2, r"heun takes 3 to 18 steps \(5 to 35 evaluations\), not 2"),
    ("heun", 19, "heun takes 3 to 18 steps"),
    (None, 0, "heun takes 3 to 18 steps"),
    (None, -5, "heun takes 3 to 18 steps"),
    ("ddim", 4, r"ddim takes 5 to 35 steps \(5 to 35 evaluations\), not 4"),
    ("ddim", 36, "ddim takes 5 to 35 steps"),
    ("euler", 18, "there is no sampler 'euler', only heun and ddim"),
    ("one_step", None, "there is no sampler 'one_step'"),
]


@pytest.mark.parametrize(("sampler", "steps", "why"), REFUSED)
def test_samplers_that_cannot_be_are_refused(sampler: str | None, steps: int | None, why: str) -> None:
    with pytest.raises(UserError, match=why) as told:
        ensemble(2).generate([0], [0], sampler=sampler, steps=steps)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("asked", [{"sampler": "heun"}, {"steps": 18}, {"sampler": "ddim", "steps": 5}])
def test_one_step_students_have_no_sampler(asked: Any) -> None:
    with pytest.raises(UserError, match="a single step"):
        ensemble(1, sampling=ONE_STEP).generate([0], [0], **asked)


def test_contradicting_parts_are_refused(tmp_path: Path) -> None:
    made, store = ensemble(2), Store(str(tmp_path))
    with pytest.raises(ValueError, match="cannot make a sample in a single step"):
        save_ensemble(store, {}, made.partition, LABELS, made.members)
    with pytest.raises(ValueError, match="heun takes 3 to 18 steps"):
        save_ensemble(store, {}, made.partition, LABELS, made.members, Sampling("heun", 20, NOISE))
    with pytest.raises(ValueError, match="students 0 to 1"):
        save_ensemble(store, {}, made.partition, LABELS, made.members[:1], HEUN)
    assert store.names() == []
