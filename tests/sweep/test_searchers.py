"""Who chooses the trials: never the same twice while there are others."""

from dataclasses import replace
from typing import Any

import pytest

from msd_ray.sweep.searchers import searching

from .cases import BLANK, SAID, recipe_space

SPACE = {"partition.k": [1, 2, 4], "size": SAID["space"]["size"]}


def asked(trials: int, **changes: Any) -> list[dict[str, Any]]:
    """What a search chooses whose trials end as soon as they began, the better the fewer students they have."""
    search = searching(recipe_space(budget={"trials": trials}, **changes))
    made = []
    for number in range(search.most):
        made.append(search.choose(number))
        k = made[-1]["partition.k"]
        search.ended(number, replace(BLANK, fid=float(k), latency_ms=float(k)))
    return made


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", ["optuna", "random"])
def test_a_finite_space_is_exhausted_before_a_search_ends(kind: str, seed: int) -> None:
    searcher = {"kind": kind, "seed": seed}
    made = asked(6, space=SPACE, searcher=searcher)
    assert len({str(choice) for choice in made}) == 6
    assert asked(4, space=SPACE, searcher=searcher) == made[:4]
    assert asked(50, space=SPACE, searcher=searcher) == made


def test_a_space_of_whole_numbers_is_finite_too() -> None:
    made = asked(9, space={"partition.k": {"integer": [1, 4]}}, searcher={"kind": "optuna"})
    assert sorted(choice["partition.k"] for choice in made) == [1, 2, 3, 4]


def test_a_range_of_rates_has_as_many_trials_as_the_budget() -> None:
    space = {"partition.k": [1], "stages.dm.generator_lr": {"log": [1e-4, 1e-2]}}
    assert len(asked(20, space=space, searcher={"kind": "optuna"})) == 20
