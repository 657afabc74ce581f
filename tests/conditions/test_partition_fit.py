from collections import Counter
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_ray.conditions import Classes, Partition, PartitionConfig, Table, fit
from msd_ray.conditions.fit import learned
from msd_ray.errors import CorruptError, UserError
from msd_ray.validation import in_range

KINDS: list[Literal["sequential", "random", "kmeans"]] = ["sequential", "random", "kmeans"]


def means(classes: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(classes, 3)).astype(np.float32)


@settings(max_examples=60)
@given(st.sampled_from(KINDS), st.integers(1, 24), st.data())
def test_a_partition_covers_everything_once_in_equal_shares(kind: Any, classes: int, data: st.DataObject) -> None:
    config = PartitionConfig(data.draw(st.integers(1, classes)), kind, data.draw(st.integers(0, 2**40)))
    partition = fit(config, Classes.numbered(classes), means(classes))
    parts = [partition.router.ids_of(student).tolist() for student in range(config.k)]
    assert partition.k == config.k
    assert sorted(condition for part in parts for condition in part) == list(range(classes))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert [part[0] for part in parts] == sorted(part[0] for part in parts)
    assert partition.route(torch.arange(classes)).tolist() == list(partition.router.owners)
    assert Partition.from_json(partition.to_json()) == partition
    assert fit(config, Classes.numbered(classes), means(classes)) == partition


def test_sequential_parts_are_consecutive() -> None:
    assert fit(PartitionConfig(3), Classes.numbered(10)).router.owners == (0, 0, 0, 0, 1, 1, 1, 2, 2, 2)


def test_random_parts_depend_on_the_seed() -> None:
    owners = {fit(PartitionConfig(2, "random", seed), Classes.numbered(10)).router.owners for seed in range(5)}
    assert len(owners) > 1


def test_kmeans_finds_groups_that_lie_apart() -> None:
    group = np.array([0, 1, 2, 1, 0, 2, 2, 0, 1, 1])  # sizes 3, 4, 3
    features = np.array([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])[group] + means(10)[:, :2]
    for seed in range(5):
        assert fit(PartitionConfig(3, "kmeans", seed), Classes.numbered(10), features).router.owners == tuple(
            group.tolist()
        )


def test_kmeans_is_balanced_even_where_all_classes_are_alike() -> None:
    owners = fit(PartitionConfig(4, "kmeans"), Classes.numbered(10), np.zeros((10, 2))).router.owners
    assert sorted(Counter(owners).values()) == [2, 2, 3, 3]


def test_no_balanced_kmeans_of_a_small_case_is_better() -> None:
    points = means(6, seed=3)

    def inertia(owners: tuple[int, ...]) -> float:
        parts = [points[[o == s for o in owners]] for s in range(2)]
        return sum(float(((part - part.mean(axis=0)) ** 2).sum()) for part in parts)

    halves = [tuple(int(mask >> i & 1) for i in range(6)) for mask in range(64) if bin(mask).count("1") == 3]
    assert inertia(fit(PartitionConfig(2, "kmeans"), Classes.numbered(6), points).router.owners) == pytest.approx(
        min(map(inertia, halves))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_more_students_than_classes_is_told(kind: Any) -> None:
    with pytest.raises(UserError, match="11 students cannot share 10 classes"):
        fit(PartitionConfig(11, kind), Classes.numbered(10), means(10))


def test_kmeans_needs_finite_features_of_every_class() -> None:
    with pytest.raises(UserError, match="needs data"):
        fit(PartitionConfig(2, "kmeans"), Classes.numbered(10))
    with pytest.raises(UserError, match="finite"):
        fit(PartitionConfig(2, "kmeans"), Classes.numbered(10), np.full((10, 2), np.nan))
    with pytest.raises(ValueError, match="must be"):
        fit(PartitionConfig(2, "kmeans"), Classes.numbered(10), means(9))


def test_k_and_timesteps_are_at_least_one() -> None:
    with pytest.raises(ValueError, match="k: input should be greater than or equal to 1, not 0"):
        in_range(PartitionConfig(0))
    with pytest.raises(ValueError, match="timesteps: input should be greater than or equal to 1, not 0"):
        in_range(PartitionConfig(timesteps=0))


def test_routes_by_condition() -> None:
    partition = Partition("random", Table((1, 0, 1)))
    routed = partition.route(torch.tensor([2, 1, 0, 0], dtype=torch.int32), torch.ones(4))
    assert routed.tolist() == [1, 0, 1, 1]
    assert routed.dtype == torch.int64
    assert partition.route(torch.tensor([], dtype=torch.long)).tolist() == []


@pytest.mark.parametrize(("bad", "shown"), [(3, "no condition 3"), (-1, "no condition -1")])
def test_an_unknown_condition_is_told_with_the_valid_range(bad: int, shown: str) -> None:
    with pytest.raises(UserError, match=f"{shown}: valid ones are 0 to 2"):
        Partition("random", Table((1, 0, 1))).route(torch.tensor([0, bad]))


def test_conditions_must_be_integers() -> None:
    with pytest.raises(UserError, match="integers"):
        Partition("random", Table((0,))).route(torch.tensor([0.0]))


BAD_OWNERS: list[Any] = [[], [1], [0, 2], [0, -1], [0.0], [True], ["0"], None, 0, {"0": 0}]


@pytest.mark.parametrize("owners", BAD_OWNERS)
def test_what_is_no_partition_is_corrupt(owners: Any) -> None:
    with pytest.raises(CorruptError):
        Partition.from_json({"kind": "random", "owners": owners})


@pytest.mark.parametrize("raw", [None, [], {}, {"owners": [0]}, {"kind": 1, "owners": [0]}])
def test_what_is_no_partition_at_all_is_corrupt(raw: Any) -> None:
    with pytest.raises(CorruptError):
        Partition.from_json(raw)


def shares(owners: tuple[int, ...], gradients: np.ndarray[Any, Any]) -> float:
    """By how much a step of each student down its own mean gradient lowers all losses, to first order."""
    parts = [gradients[[o == part for o in owners]] for part in range(max(owners) + 1)]
    return sum(len(part) * float((part.mean(axis=0) ** 2).sum()) for part in parts)


@pytest.mark.parametrize("common", [0.0, 30.0])
def test_no_learned_partition_of_a_small_case_lowers_the_losses_by_more(common: float) -> None:
    gradients = means(6, seed=3) + common
    halves = [tuple(int(mask >> i & 1) for i in range(6)) for mask in range(64) if bin(mask).count("1") == 3]
    found = learned(gradients, PartitionConfig(2, "learned"), (1.0,))
    assert shares(found.router.owners, gradients) == pytest.approx(max(shares(h, gradients) for h in halves), rel=1e-5)
    assert found.kind == "learned" and found.borders == (1.0,) and found.router.owners[0] == 0


def test_before_it_is_learned_parts_are_consecutive() -> None:
    sequential = fit(PartitionConfig(3), Classes.numbered(10))
    assert fit(PartitionConfig(3, "learned"), Classes.numbered(10)) == sequential


def test_a_learned_partition_needs_finite_gradients() -> None:
    with pytest.raises(UserError, match="finite gradients of every class"):
        learned(np.full((4, 2), np.nan), PartitionConfig(2, "learned"), ())
