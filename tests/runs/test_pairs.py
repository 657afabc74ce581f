"""The teacher's pairs: made in chunks, the same ones however they are asked for."""

from pathlib import Path

import pytest
import torch

from msd_ray.conditions import Owned
from msd_ray.diffusion import heun
from msd_ray.ensemble import seeded_noise
from msd_ray.errors import CorruptError, UserError
from msd_ray.objectives import Pairs
from msd_ray.runs import pairs
from msd_ray.runs.run_context import RunContext
from msd_ray.storage import Store

TINY = str(Path(__file__).parents[1] / "faults" / "tiny.yaml")
CPU, CONDITIONS = torch.device("cpu"), torch.tensor([1, 3])


@pytest.fixture
def plan() -> object:
    return RunContext.of(TINY, ["teacher.steps=3", "pairs=300"], None).plan


def test_pairs_are_what_the_teachers_sampler_makes(plan, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    denoiser = plan.teacher.build().eval().requires_grad_(False)
    store = Store(str(tmp_path))
    chunks = pairs.chunks_of(plan)
    assert chunks == [0, 1]
    for chunk in chunks:
        assert not pairs.has_chunk(store, chunk)
        pairs.make_chunk(store, chunk, denoiser, CPU, plan)
        assert pairs.has_chunk(store, chunk)
    made = pairs.load_pairs(store, chunks, plan.teacher.sample_shape)
    assert len(made) == 2 * pairs.CHUNK
    assert torch.equal(made.condition, torch.arange(512) % 4)
    assert torch.equal(made.z, seeded_noise(list(range(512)), (2,)))
    first = slice(0, pairs.CHUNK)
    expected = heun(denoiser, made.z[first], made.condition[first], plan.recipe.noise, 3)
    assert torch.equal(made.x[first], expected)


def test_damage_is_found(plan, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    store = Store(str(tmp_path))
    pairs.make_chunk(store, 0, plan.teacher.build().eval().requires_grad_(False), CPU, plan)
    file = tmp_path / "part-000000" / "pairs.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CorruptError):
        pairs.load_pairs(store, [0], plan.teacher.sample_shape)


def test_another_teacher_or_sampler_has_other_pairs(plan, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    cache = Store(str(tmp_path))

    def folder(*overrides: str) -> str:
        return pairs.pairs_folder(cache, RunContext.of(TINY, ["teacher.steps=3", *overrides], None).plan).uri

    assert folder() == folder("pairs=1000", "seed=3", "partition.k=1", "noise.sigma_init=2.5")
    for override in ("teacher.steps=4", "teacher.seed=1", "network.width=8", "noise.sigma_max=40.0", "data.seed=1"):
        assert folder(override) != folder()


def test_pairs_of_none_of_a_students_own_conditions_are_refused(plan) -> None:  # type: ignore[no-untyped-def]
    made, owned = Pairs(torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([0, 3])), Owned(plan.conditions, CONDITIONS)
    pairs.refuse_without_own(made, owned)
    with pytest.raises(UserError, match=r"pairs: none of the 1 pairs is of a student's own conditions; make more"):
        pairs.refuse_without_own(made.at(torch.tensor([0])), owned)
