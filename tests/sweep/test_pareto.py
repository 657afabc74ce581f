"""The front, the best and what is pruned."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd_ray.errors import UserError
from msd_ray.sweep.pareto import best, pareto_front
from msd_ray.sweep.sweep_directory import superfluous
from msd_ray.sweep.sweep_journal import TrialRecord

from .cases import recipe_space, record

METRICS: Any = {"fid": "min", "precision": "max"}
POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


def records(points: list[tuple[int, int]]) -> list[TrialRecord]:
    return [record(i, fid=float(fid), precision=float(precision)) for i, (fid, precision) in enumerate(points)]


def beats(a: TrialRecord, b: TrialRecord) -> bool:
    one, two = a.reports[-1], b.reports[-1]
    return (one.fid, -one.precision) != (two.fid, -two.precision) and (  # type: ignore[operator]
        one.fid <= two.fid and one.precision >= two.precision  # type: ignore[operator]
    )


@given(POINTS)
def test_the_front_is_exactly_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    found = records(points)
    on_it = pareto_front(found, METRICS)
    assert {r.number for r in on_it} == {r.number for r in found if not any(beats(o, r) for o in found)}
    fids = [r.reports[-1].fid for r in on_it]
    assert fids == sorted(fids)  # type: ignore[type-var]


def test_trials_that_failed_run_or_have_no_figure_are_not_on_it() -> None:
    found = [record(0, "failed", fid=0.0), record(1, "running", fid=0.1), record(2, fid=None), record(3, "stopped")]
    assert [r.number for r in pareto_front(found, METRICS)] == [3]


@given(POINTS)
def test_the_best_by_one_metric_is_its_best_and_by_two_lies_on_their_front(points: list[tuple[int, int]]) -> None:
    found = records(points)
    assert best(found, {"fid": "min"}, {}).reports[-1].fid == min(fid for fid, _ in points)
    assert best(found, METRICS, {}) in pareto_front(found, METRICS)


def test_the_best_by_two_is_the_one_between_extremes() -> None:
    found = records([(0, 0), (10, 10), (2, 9)])
    assert best(found, METRICS, {}).number == 2


def test_limits_leave_the_best_of_what_they_allow() -> None:
    found = [record(i, fid=1.0 / (i + 1), latency_ms=float(i)) for i in range(10)]
    assert best(found, {"fid": "min"}, {"latency_ms": 5.0}).number == 5
    assert best(found, {"latency_ms": "min"}, {"fid": 0.2}).number == 4
    with pytest.raises(UserError, match=r"no trial is within the limits \(latency_ms -1\)"):
        best(found, {"fid": "min"}, {"latency_ms": -1.0})
    with pytest.raises(UserError, match="no trial has finished yet"):
        best([], {"fid": "min"}, {})


@given(POINTS, st.integers(0, 12))
def test_what_is_pruned_early_would_not_be_wanted_in_the_end(points: list[tuple[int, int]], early: int) -> None:
    definition, found = recipe_space(metrics=METRICS).definition, records(points)
    gone = {r.number for r in superfluous(found[:early], definition)}
    assert not gone & {r.number for r in pareto_front(found, METRICS)}
    assert not superfluous(pareto_front(found, METRICS), definition)


def test_policies_keep_the_front_the_best_or_all_and_never_touch_a_trial_under_way() -> None:
    found = [*records([(0, 0), (1, 5), (2, 4)]), record(3, "running"), record(4, "failed")]
    spaces = {keep: recipe_space(metrics=METRICS, keep=keep) for keep in ("front", "best", "all")}
    kept = {keep: [r.number for r in superfluous(found, space.definition)] for keep, space in spaces.items()}
    assert kept == {"front": [2, 4], "best": [1, 2, 4], "all": []}
