"""What a space makes of trials."""

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd_ray.errors import UserError
from msd_ray.sweep.search_space import another, changes_of, combinations, draws, grid, parse_space, probes

SIZES = {"half": {"student.channel_factor": 0.5}, "full": {}}


@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_a_grid_is_the_product_of_its_dimensions_in_order(counts: list[int]) -> None:
    space = parse_space({f"d{i}": list(range(n)) for i, n in enumerate(counts)})
    made = [tuple(choice.values()) for choice in grid(space)]
    assert made == list(itertools.product(*(range(n) for n in counts)))


def test_a_grid_has_no_ranges() -> None:
    with pytest.raises(UserError, match=r"space\.lr: a grid needs a list"):
        grid(parse_space({"lr": {"log": [1e-4, 1e-2]}}))


@given(seed=st.integers(0, 1000), few=st.integers(1, 5), more=st.integers(0, 5))
def test_more_draws_begin_with_the_same(seed: int, few: int, more: int) -> None:
    space = parse_space({"k": [1, 2, 5], "size": SIZES, "lr": {"log": [1e-4, 1e-2]}})
    assert draws(space, seed, few + more)[:few] == draws(space, seed, few)


@given(seed=st.integers(0, 1000))
def test_random_trials_exhaust_a_small_space_before_any_comes_twice(seed: int) -> None:
    space = parse_space({"k": [1, 2, 5], "size": SIZES})
    made = draws(space, seed, 7)
    assert sorted(map(str, made[:6])) == sorted(map(str, grid(space)))
    assert made[6] in made[:6]


@given(counts=st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_what_was_not_tried_is_found_as_long_as_there_is_any(counts: list[int]) -> None:
    space = parse_space({f"d{i}": list(range(n)) for i, n in enumerate(counts)} | {"n": {"integer": [3, 5]}})
    known: list[Any] = []
    for _ in range(combinations(space) or 0):
        known.append(another(space, known))
    assert len({str(choice) for choice in known}) == len(known) == 3 * math.prod(counts)
    assert combinations(parse_space({"lr": {"log": [1e-4, 1e-2]}})) is None


def test_draws_keep_to_their_ranges_and_a_log_range_is_even_in_its_logarithm() -> None:
    space = parse_space({"log": {"log": [1e-4, 1e-2]}, "uniform": {"uniform": [2, 3]}, "integer": {"integer": [4, 6]}})
    made = draws(space, 0, 400)
    assert all(1e-4 <= c["log"] <= 1e-2 and 2 <= c["uniform"] <= 3 for c in made)
    assert {c["integer"] for c in made} == {4, 5, 6}
    below = sum(c["log"] < 1e-3 for c in made)
    assert abs(below - 200) < 4 * math.sqrt(400) / 2  # four standard deviations of a fair coin


def test_probes_meet_every_value() -> None:
    space = parse_space({"k": [1, 2, 5], "size": SIZES, "lr": {"log": [1e-4, 1e-2]}})
    met = {(name, value) for choice in probes(space) for name, value in choice.items()}
    assert met == {("k", 1), ("k", 2), ("k", 5), ("size", "half"), ("size", "full"), ("lr", 1e-4), ("lr", 1e-2)}


def test_a_choice_becomes_values_by_path_and_the_later_dimension_holds() -> None:
    space = parse_space({"partition.k": [1, 2], "size": SIZES, "student.channel_factor": [0.75]})
    choice = {"partition.k": 2, "size": "half", "student.channel_factor": 0.75}
    assert changes_of(space, choice) == {"partition.k": 2, "student.channel_factor": 0.75}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({}, "space: it is empty"),
        ({"k": []}, "space.k: it is empty"),
        ({"k": {}}, "space.k: it is empty"),
        ({"k": 3}, "space.k: give a list of values"),
        ({"k": {"log": [1e-2, 1e-4]}}, "space.k.log: the range from 0.01 to 0.0001 is empty"),
        ({"k": {"uniform": [1, 1]}}, "space.k.uniform: the range from 1 to 1 is empty"),
        ({"k": {"log": [0, 1]}}, "space.k.log: the lowest must be above 0"),
        ({"k": {"integer": [1.5, 3]}}, "space.k.integer: give two whole numbers"),
        ({"k": {"log": [1, 2, 3]}}, "space.k.log: give two numbers"),
    ],
)
def test_what_is_no_space_is_refused_by_name(said: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_space(said)
    assert message in str(refused.value)
