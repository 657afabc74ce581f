"""Students that divide the steps of a sample among them: who is trained on a level samples it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from msd_ray.conditions import Classes, Partition, PartitionConfig, fit
from msd_ray.diffusion import Noise, levels_of_fewer, rolled_out
from msd_ray.ensemble import Ensemble, Member, Sampling, read_description, save_ensemble
from msd_ray.ensemble.sampling import sampled
from msd_ray.errors import CorruptError, UserError
from msd_ray.rng import stream
from msd_ray.runs.plan import narrowed
from msd_ray.storage import Store, read_manifest

from .test_few_steps import Recorder, noises
from .test_several_steps import LABELS, member

NOISE = Noise(steps=4)
SAMPLING = Sampling.of_generators(NOISE)


def phased(noise: Noise, phases: int, k: int = 1) -> Partition:
    return fit(PartitionConfig(k, timesteps=phases), Classes.numbered(len(LABELS)), noise=noise)


def ensemble(phases: int = 2, k: int = 2) -> Ensemble:
    partition = phased(NOISE, phases, k)
    return Ensemble({}, partition, LABELS, experts(partition), sampling=SAMPLING)


def experts(partition: Partition) -> list[Member]:
    begins = [partition.steps_of(i, NOISE.step_levels)[0] for i in range(partition.k)]
    return [
        Member(made.index, made.spec, begins[i], made.nimg, made.weights)
        for i, made in enumerate(member(i, weights=i) for i in range(partition.k))
    ]


@settings(max_examples=100, deadline=None)
@given(noise=noises(), data=st.data())
def test_the_expert_that_is_trained_on_a_level_is_the_one_that_samples_it(noise: Noise, data: Any) -> None:
    """Over all grids, numbers of steps and phases, also where a level lies on a border, after the way through the
    manifest; and fewer steps ask each expert at some of its own levels."""
    levels = noise.step_levels
    assume(len(levels) > 1 and len(set(torch.tensor(levels).tolist())) == len(levels))
    phases, fewer = data.draw(st.integers(1, len(levels))), data.draw(st.integers(1, len(levels)))
    made = phased(noise, phases)
    partition, sampling = Partition.from_json(made.to_json()), Sampling.from_json(said_of(noise))
    z, condition, trained = torch.zeros(16, 2, dtype=torch.float64), torch.zeros(16).long(), []
    for student in range(phases):
        try:
            own = narrowed(noise, made, student)
        except UserError:  # a table may have too few levels there
            assume(False)
        recorder = Recorder()
        rolled_out(recorder, z, condition, torch.zeros(7, 16, 2), own.step_levels, start=z)
        trained.append(sorted(recorder.levels, reverse=True))
        compared = own.grid()
        at_the_lower_end = compared <= torch.tensor(own.sigma_min)
        assert set(partition.interval_at(compared[~at_the_lower_end]).tolist()) <= {student}
    assert [level for own in reversed(trained) for level in own] == list(levels)
    asked = [Recorder() for _ in range(phases)]
    sampled(partition, asked, noise.sigma_init, sampling, torch.zeros(len(levels), 16, 2).double(), condition)
    assert [recorder.levels for recorder in asked] == trained
    chosen = set(levels_of_fewer(levels, fewer))
    if not all(chosen & set(own) for own in trained):
        with pytest.raises(UserError, match="some would not be asked"):
            sampling.changed(None, fewer, partition)
        return
    way = sampling.changed(None, fewer, partition)
    asked = [Recorder() for _ in range(phases)]
    sampled(partition, asked, noise.sigma_init, way, torch.zeros(fewer, 16, 2).double(), condition)
    assert [set(recorder.levels) for recorder in asked] == [chosen & set(own) for own in trained]


def said_of(noise: Noise) -> dict[str, Any]:
    return Sampling.of_generators(noise).to_json()


@settings(max_examples=50, deadline=None)
@given(noise=noises(), timesteps=st.integers(1, 8), steps=st.integers(8, 30))
def test_denoisers_that_share_the_levels_keep_the_same_rule(noise: Noise, timesteps: int, steps: int) -> None:
    """A sampler asks nobody at a level outside of those that it was trained between."""
    noise = Noise(noise.sigma_min, noise.sigma_max, noise.rho)
    partition = phased(noise, timesteps)
    sigma = noise.grid(steps)
    for student in range(timesteps):
        own, grid = sigma[partition.interval_at(sigma) == student], narrowed(noise, partition, student).grid()
        assert len(own) == 0 or (grid[0] <= own.min() and own.max() <= grid[-1])


@pytest.mark.parametrize("phases", [2, 3, 4])
def test_steps_are_divided_evenly_and_a_phase_begins_on_a_border(phases: int) -> None:
    partition = phased(NOISE, phases)
    own = [partition.steps_of(i, NOISE.step_levels) for i in reversed(range(phases))]
    assert sum(own, ()) == NOISE.step_levels
    assert max(map(len, own)) - min(map(len, own)) <= 1
    assert [torch.tensor(steps[0]).item() for steps in own[1:]] == list(reversed(partition.borders))


def test_each_step_of_a_sample_is_made_by_the_expert_of_its_level() -> None:
    made, rng = ensemble(), stream("sample", 7)
    high, low = (made.members[i].build(made.conditions) for i in (3, 2))
    x = torch.zeros(1, 2)
    for level, expert in zip(NOISE.step_levels, (high, high, low, low), strict=True):
        x = expert(x + level * torch.randn(2, generator=rng), torch.tensor([level]), torch.tensor([3]))
    torch.testing.assert_close(made.generate([3], [7]), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [None, 2])
def test_a_sample_does_not_show_what_it_was_generated_with(steps: int | None) -> None:
    made, pairs = ensemble(), [(i % 4, 1000 * i) for i in range(5)]
    alone = torch.cat([made.generate([condition], [seed], steps=steps) for condition, seed in pairs])
    chosen = [4, 0, 3]
    together = made.generate([pairs[i][0] for i in chosen], [pairs[i][1] for i in chosen], steps=steps)
    assert torch.equal(together, alone[chosen])


def test_steps_that_leave_an_expert_out_are_refused() -> None:
    with pytest.raises(UserError, match=r"^these students divide the steps among 2: in 1 some would not be asked$"):
        ensemble().generate([0], [0], steps=1)


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    store, made = Store(str(tmp_path)), ensemble()
    save_ensemble(store, {}, made.partition, LABELS, made.members, SAMPLING)
    assert torch.equal(Ensemble.load(store).generate(range(4), range(4)), made.generate(range(4), range(4)))
    body = read_manifest(store).body
    assert (body["format_version"], len(body["partition"]["borders"])) == (5, 1)
    begins = torch.tensor([student["sigma_init"] for student in body["students"]])
    assert begins.tolist() == torch.tensor([body["partition"]["borders"][0], 80.0] * 2).tolist()
    assert read_description(store).sampling == SAMPLING


def test_experts_that_begin_elsewhere_are_no_ensemble() -> None:
    partition = phased(NOISE, 2)
    with pytest.raises(CorruptError, match="first step of student 0 begins at another noise level"):
        Ensemble({}, partition, LABELS, [member(0), member(1)], sampling=SAMPLING)
    with pytest.raises(CorruptError, match="cannot make a sample in a single step"):
        Ensemble({}, partition, LABELS, experts(partition))
    with pytest.raises(CorruptError, match="some would not be asked"):
        Ensemble({}, Partition("x", partition.router, (0.01,)), LABELS, [member(0), member(1)], sampling=SAMPLING)
