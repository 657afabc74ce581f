"""Partitions of the noise levels: borders, routing, and what they look like in JSON."""

import json
import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from msd_ray.conditions import Classes, Partition, PartitionConfig, Table, fit
from msd_ray.diffusion import Noise
from msd_ray.errors import CorruptError, UserError

NOISE = Noise(sigma_min=0.01, sigma_max=50.0, rho=5.0)
GRID = Partition("sequential", Table((0, 0, 1)), (0.5, 8.0))


@pytest.mark.parametrize("timesteps", [2, 3, 4, 7])
def test_borders_are_evenly_spaced_in_the_rho_th_root(timesteps: int) -> None:
    borders = fit(PartitionConfig(timesteps=timesteps), Classes.numbered(4), noise=NOISE).borders
    roots = [sigma ** (1 / 5) for sigma in (0.01, *borders, 50.0)]
    assert len(roots) == timesteps + 1
    for low, high in pairwise(roots):
        assert high - low == pytest.approx((roots[-1] - roots[0]) / timesteps, rel=1e-5)


def test_without_a_noise_schedule_borders_are_of_the_usual_one() -> None:
    assert (
        fit(PartitionConfig(timesteps=3), Classes.numbered(4)).borders
        == fit(PartitionConfig(timesteps=3), Classes.numbered(4), noise=Noise()).borders
    )


def test_one_timestep_is_the_partition_of_before() -> None:
    partition = fit(PartitionConfig(2, timesteps=1), Classes.numbered(4), noise=NOISE)
    assert partition == Partition("sequential", Table((0, 0, 1, 1)))
    assert partition.to_json() == {"kind": "sequential", "owners": [0, 0, 1, 1]}
    assert (partition.parts, partition.intervals, partition.k) == (2, 1, 2)
    assert partition.interval_of(1) == (0.0, math.inf)


@pytest.mark.parametrize("timesteps", [2, 3, 4, 5, 8])
def test_every_student_of_n_timesteps_is_asked_in_n_or_more_levels(timesteps: int) -> None:
    partition = fit(PartitionConfig(timesteps=timesteps), Classes.numbered(4), noise=NOISE)
    for steps in range(timesteps, 36):
        assert set(partition.interval_at(NOISE.grid(steps)).tolist()) == set(range(timesteps))


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_levels_that_fall_on_borders_belong_to_the_interval_below(rho: float) -> None:
    """The sampler counts in float32, and so do the borders: no rounding may move a level across."""
    noise = Noise(rho=rho)
    for timesteps in (2, 3, 4, 5, 6):
        partition = fit(PartitionConfig(timesteps=timesteps), Classes.numbered(2), noise=noise)
        for steps in (m * timesteps + 1 for m in (1, 2, 3, 5)):
            expected = [0, *(i // ((steps - 1) // timesteps) for i in range(steps - 1))]
            assert partition.interval_at(noise.grid(steps)).tolist() == expected


def test_routes_by_condition_and_level() -> None:
    assert (GRID.parts, GRID.intervals, GRID.k) == (2, 3, 6)
    sigma = torch.tensor([0.001, 0.5, 0.5001, 8.0, 9.0, 1000.0])
    assert GRID.route(torch.zeros(6).long(), sigma).tolist() == [0, 0, 1, 1, 2, 2]
    routed = GRID.route(torch.tensor([2, 1, 2, 0, 2, 1]), sigma)
    assert routed.tolist() == [3, 0, 4, 1, 5, 2]
    assert routed.dtype == torch.int64
    assert GRID.route(torch.tensor([], dtype=torch.long), torch.tensor([])).tolist() == []


def test_expanded_levels_are_routed_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    assert GRID.route(torch.tensor([0, 2]), torch.tensor(1.0).expand(2)).tolist() == [1, 4]
    assert not recwarn.list


def test_routing_agrees_with_what_each_student_owns() -> None:
    partition = fit(PartitionConfig(3, "random", timesteps=4), Classes.numbered(10), noise=NOISE)
    sigma = torch.cat([NOISE.grid(200), torch.tensor(partition.borders)])
    asked = 0
    for student in range(partition.k):
        low, high = partition.interval_of(student)
        for condition in range(10):
            routed = partition.route(torch.full((len(sigma),), condition), sigma) == student
            owned = (sigma > low) & (sigma <= high) & (condition in partition.router.ids_of(student // 4).tolist())
            assert torch.equal(routed, owned)
            asked += int(routed.sum())
        assert student in partition.students_of(student // 4)
    assert asked == 10 * len(sigma)


def test_a_level_is_needed_where_there_are_borders() -> None:
    with pytest.raises(UserError, match="depends on sigma"):
        GRID.route(torch.tensor([0]))
    with pytest.raises(UserError, match="no condition 3"):
        GRID.route(torch.tensor([3]), torch.tensor([1.0]))


def test_borders_survive_json() -> None:
    for partition in (GRID, fit(PartitionConfig(2, "random", timesteps=5), Classes.numbered(7), noise=NOISE)):
        assert set(partition.to_json()) == {"kind", "owners", "borders"}
        assert Partition.from_json(json.loads(json.dumps(partition.to_json()))) == partition


BAD: list[Any] = [
    [], None, 1.0, "1.0", {"0": 1.0}, [1], ["1.0"], [True], [None], [[1.0]],
    [1.0, 1.0], [2.0, 1.0], [0.0], [-1.0, 1.0], [math.nan], [1.0, math.nan, 2.0], [math.inf], [1.0, math.inf],
]  # fmt: skip


@pytest.mark.parametrize("borders", BAD)
def test_borders_that_are_none_are_corrupt(borders: Any) -> None:
    with pytest.raises(CorruptError, match="borders"):
        Partition.from_json({"kind": "random", "owners": [0, 1], "borders": borders})


@pytest.mark.parametrize("raw", [{"kind": "x", "borders": [1.0]}, {"kind": "x", "owners": [0], "edges": [1.0]}])
def test_other_fields_are_corrupt(raw: Any) -> None:
    with pytest.raises(CorruptError):
        Partition.from_json(raw)
