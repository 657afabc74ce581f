"""Ensembles whose students make a sample in a few steps, with noise from the sample's own seed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from msd_ray.conditions import Classes, Partition, PartitionConfig, fit
from msd_ray.diffusion import Denoiser, Noise, NoiseTable, rolled_out
from msd_ray.ensemble import ONE_STEP, Ensemble, Sampling, read_description, save_ensemble
from msd_ray.ensemble.sampling import sampled
from msd_ray.errors import CorruptError, UserError
from msd_ray.objectives import Batch, Consistency
from msd_ray.rng import stream
from msd_ray.storage import Store, read_manifest, write_bundle

from .test_several_steps import LABELS, MLP, UNET, Kind, member

SAMPLING = Sampling.of_generators(Noise(steps=4))
ALONE: Partition = fit(PartitionConfig(1), Classes.numbered(len(LABELS)))


def ensemble(k: int = 2, network: Kind = MLP, sampling: Sampling = SAMPLING) -> Ensemble:
    partition = fit(PartitionConfig(k), Classes.numbered(len(LABELS)))
    return Ensemble({}, partition, LABELS, [member(i, network) for i in range(k)], sampling=sampling)


class Recorder(Denoiser):
    """Notes the levels that it is asked at, in order, each once."""

    def __init__(self) -> None:
        self.levels: list[float] = []

    def __call__(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        self.levels += [level for level in dict.fromkeys(sigma.tolist()) if level not in self.levels]
        return x_t / (1 + sigma[:, None])


tables = st.builds(
    NoiseTable,
    schedule=st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2", "flow"]),
    steps=st.integers(10, 1000),
    shift=st.floats(0.3, 3),
)


@st.composite
def noises(draw: Any) -> Noise:
    """Any grid, start and steps that a recipe may ask for."""
    low = draw(st.floats(1e-3, 1.0))
    init = draw(st.floats(0.01, 100.0))
    levels = st.lists(st.floats(1e-3, 100.0), min_size=1, max_size=7, unique=True)
    steps = draw(st.integers(1, 8) | levels.map(lambda found: tuple(sorted(found, reverse=True))))
    table = draw(st.none() | tables)
    try:
        return Noise(
            sigma_min=low, sigma_max=80.0, rho=draw(st.floats(1, 10)), sigma_init=init, table=table, steps=steps
        )
    except ValueError:
        assume(False)
        raise


@settings(max_examples=100, deadline=None)
@given(noise=noises(), data=st.data())
def test_training_and_sampling_ask_at_the_same_levels(noise: Noise, data: Any) -> None:
    """Over all grids and numbers of steps: the levels that training rolls out to are those that sampling switches at,
    after the way through the manifest, and fewer steps are some of them."""
    steps, z = len(noise.step_levels), torch.zeros(16, 2, dtype=torch.float64)
    condition, trained, whole, fewer = torch.zeros(16).long(), Recorder(), Recorder(), Recorder()
    rolled_out(trained, z, condition, torch.zeros(steps - 1, 16, 2), noise.step_levels)
    sampling = Sampling.from_json(Sampling.of_generators(noise).to_json())
    assert sampling.nfe == steps and sampling.problem() is None
    n = data.draw(st.integers(1, steps))
    for recorder, way in [(whole, sampling), (fewer, sampling.changed(None, n))]:
        sampled(ALONE, [recorder], noise.sigma_init, way, torch.zeros(way.draws, 16, 2, dtype=torch.float64), condition)
    assert whole.levels == sorted(trained.levels, reverse=True) == list(noise.step_levels)
    assert fewer.levels == [level for level in whole.levels if level in fewer.levels] and len(fewer.levels) == n
    assert fewer.levels[0] == noise.sigma_init


@settings(max_examples=50, deadline=None)
@given(noise=noises(), levels=st.integers(2, 30))
def test_consistency_trains_at_the_levels_that_sampling_switches_at(noise: Noise, levels: int) -> None:
    assume(len(noise.grid(levels).unique()) == levels)  # a table may have fewer
    n = 2000
    batch = Batch(torch.zeros(n, 2), torch.zeros(n).long(), torch.zeros(n, 2), torch.zeros(n).long())
    objective = Consistency(noise, levels)
    draft = objective.draft(None, batch, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    drawn, further = draft.sigma.unique(), torch.tensor(noise.step_levels[1:])
    assert torch.isin(drawn, torch.cat([noise.grid(levels), further])).all()
    assert torch.isin(further, drawn).all()
    below = objective.needs.follow_up(draft, torch.zeros(n, 2)).sigma  # type: ignore[misc]
    assert (below < draft.sigma).all()


@pytest.mark.parametrize("network", [MLP, UNET])
@pytest.mark.parametrize("steps", [None, 1, 2, 3])
def test_a_sample_does_not_show_what_it_was_generated_with(network: Kind, steps: int | None) -> None:
    made, pairs = ensemble(network=network), [(i % 4, 1000 * i) for i in range(9)]
    alone = torch.cat([made.generate([condition], [seed], steps=steps) for condition, seed in pairs])
    chosen = [4, 4, 8, 0, 3, 7]
    together = made.generate([pairs[i][0] for i in chosen], [pairs[i][1] for i in chosen], steps=steps)
    assert torch.equal(together, alone[chosen])


def test_the_noise_of_each_step_is_what_the_seed_gives_next() -> None:
    made, rng = ensemble(k=1), stream("sample", 7)
    student, x = made.members[0].build(made.conditions), torch.zeros(1, 2)
    for level in Noise(steps=4).step_levels:
        x = student(x + level * torch.randn(2, generator=rng), torch.tensor([level]), torch.tensor([3]))
    torch.testing.assert_close(made.generate([3], [7]), x, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(made.generate([3], [7], steps=2), x, rtol=1e-2)


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    store, made = Store(str(tmp_path)), ensemble()
    save_ensemble(store, {}, made.partition, LABELS, made.members, SAMPLING)
    loaded = Ensemble.load(store)
    assert (loaded.sampling, loaded.nfe, read_description(store).sampling) == (SAMPLING, 4, SAMPLING)
    assert torch.equal(loaded.generate(range(4), range(4)), made.generate(range(4), range(4)))
    manifest = read_manifest(store)
    assert manifest.body["format_version"] == 4
    assert manifest.body["sampling"] == {"kind": "few_steps", "steps": 4, "levels": list(SAMPLING.levels)}


NONSENSE = [
    {"kind": "few_steps", "steps": 5, "levels": list(SAMPLING.levels)},
    {"kind": "few_steps", "steps": 2, "levels": [80.0, 80.0]},
    {"kind": "few_steps", "steps": 1, "levels": [80.0]},
    {"kind": "few_steps", "steps": 2, "levels": [50.0, 5.0]},
    {"kind": "heun", "steps": 3, "levels": [80.0, 5.0]},
]


@pytest.mark.parametrize("sampling", NONSENSE)
def test_steps_that_make_no_sense_are_told(sampling: dict[str, Any], tmp_path: Path) -> None:
    store, made = Store(str(tmp_path)), ensemble()
    save_ensemble(store, {}, made.partition, LABELS, made.members, SAMPLING)
    manifest = read_manifest(store)
    manifest.body["sampling"] = sampling
    write_bundle(store, manifest.body, [(name, store.read(name)) for name in manifest.files])
    with pytest.raises(CorruptError, match=r"steps|level"):
        Ensemble.load(store)


@pytest.mark.parametrize(
    ("sampler", "steps", "why"),
    [
        (None, 5, "^these students were trained for 4 steps: take 1 to 4, not 5$"),
        (None, 0, "^these students were trained for 4 steps: take 1 to 4, not 0$"),
        ("heun", 4, "^these students make a sample in steps of their own: there is no sampler to choose$"),
    ],
)
def test_more_steps_than_were_trained_are_refused(sampler: str | None, steps: int, why: str) -> None:
    with pytest.raises(UserError, match=why):
        ensemble().generate([0], [0], sampler=sampler, steps=steps)


def test_one_step_students_take_one_step() -> None:
    made = ensemble(sampling=ONE_STEP)
    assert torch.equal(made.generate([0], [0], steps=1), made.generate([0], [0]))
