"""Class numbers as conditions, what a part owns, and a user's own conditions and partitions."""

from collections import Counter
from typing import Any

import pytest
import torch

from msd_ray.conditions import (
    Classes,
    ConditionsConfig,
    Owned,
    PartitionConfig,
    fit,
    in_turn,
    make_conditions,
    named,
    spread,
)
from msd_ray.errors import UserError
from msd_ray.recipes import load_recipe

DIGITS = Classes(("zero", "one", "two", "two"))


def test_a_class_is_found_by_number_or_label() -> None:
    assert [DIGITS.id_of(asked) for asked in (0, 3, "one", "two")] == [0, 3, 1, 2]
    assert DIGITS.labels([3, 0]) == ["two", "zero"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [(4, "there is no class 4, only 0 to 3"), (-1, "there is no class -1"), ("ten", "no class is called 'ten'")],
)
def test_what_is_no_class_is_refused(asked: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DIGITS.id_of(asked)


def test_conditions_of_a_part_are_drawn_evenly_and_no_others() -> None:
    owned = Owned(DIGITS, torch.tensor([0, 2, 3]))
    drawn = Counter(owned.draw(6000, torch.Generator().manual_seed(0)).tolist())
    assert set(drawn) == {0, 2, 3}
    assert all(abs(n - 2000) < 5 * 36.5 for n in drawn.values())  # five standard deviations
    assert owned.in_turn(7).tolist() == [0, 2, 3, 0, 2, 3, 0]


def test_numbers_take_conditions_in_turn_wherever_they_begin() -> None:
    assert in_turn(torch.tensor([5, 7]), torch.tensor([3, 0, 4])).tolist() == [7, 5, 5]


def test_pairs_are_spread_evenly() -> None:
    assert sorted(spread(i % 10, i, 64) for i in range(640)) == sorted(list(range(64)) * 10)
    assert len({spread(c, 0, 64) for c in range(10)}) == 10


def test_names_are_cut_short() -> None:
    ten = Classes.numbered(20)
    assert named(ten, [3]) == "class 3"
    assert named(ten, [1, 2]) == "classes 1, 2"
    assert named(ten, list(range(20)), 3) == "20 classes: 0, 1, 2, ..."
    assert named(Classes(("a" * 61,)), [0]) == f"class {'a' * 57}..."


OWN = "a_users_conditions:Angles"


def test_own_conditions_are_made_with_the_labels_of_the_data() -> None:
    made = make_conditions(ConditionsConfig(OWN, {"step": 45.0}), ("a", "b", "c", "d"))
    assert made.n == 4
    assert made.labels([1]) == ["45 degrees"]
    assert made.id_of("90 degrees") == 2
    torch.testing.assert_close(made.embed(torch.tensor([0, 2])), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ConditionsConfig(OWN), "Angles gives no conditions: .*step"),
        (ConditionsConfig("nowhere:Mine"), "conditions.kind: 'nowhere:Mine' cannot be imported: No module named"),
        (ConditionsConfig("a_users_conditions:two"), "a_users_conditions:two has 2 conditions, the data set 4"),
    ],
)
def test_own_conditions_that_cannot_be_had_are_refused(config: ConditionsConfig, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        make_conditions(config, ("a", "b", "c", "d"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "conditions.kind=magic",
            "conditions: there is no kind 'magic', only classes, prompts, or your own module:Class",
        ),
        ("conditions.options={a: 1}", "options are those of prompts or of a module:Class; classes has none"),
        (
            "partition.kind=magic",
            "there is no kind 'magic', only sequential, random, kmeans, learned, quadrants,",
        ),
    ],
)
def test_a_recipe_names_kinds_that_there_are(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe("toy2d", [override])


def test_an_own_partition_may_have_parts_of_different_sizes() -> None:
    partition = fit(PartitionConfig(2, "a_users_conditions:first_alone"), Classes.numbered(5))
    assert [partition.router.ids_of(part).tolist() for part in (0, 1)] == [[0], [1, 2, 3, 4]]
    assert partition.kind == "a_users_conditions:first_alone"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("all_in_one", "must give each of the 5 conditions a part from 0 to 1, and each part a condition"),
        ("too_few", "must give each of the 5 conditions a part"),
        ("broken", "gives no partition: no idea"),
        ("missing", "'a_users_conditions:missing' cannot be imported"),
    ],
)
def test_an_own_partition_that_is_none_is_refused(function: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit(PartitionConfig(2, f"a_users_conditions:{function}"), Classes.numbered(5))
