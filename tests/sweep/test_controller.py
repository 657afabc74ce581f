"""Searcher and scheduler after a driver's death stand where they stood: no cluster, and trials that are formulas."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from msd_ray.storage import Store
from msd_ray.sweep.recipe_space import RecipeSpace
from msd_ray.sweep.sweep_journal import SweepJournal, TrialRecord
from msd_ray.sweep.trial_metrics import Report

from .cases import BLANK, recipe_space

RUNGS = (40, 80, 160, 320)
ASHA = {"scheduler": {"kind": "asha", "first": 40, "factor": 2}}
MEDIAN = {"scheduler": {"kind": "median", "first": 40}}
LRS = {"partition.k": [1, 2, 4], "stages.dm.generator_lr": {"log": [1e-4, 1e-2]}}
OPTUNA = {"space": LRS, "searcher": {"kind": "optuna", "seed": 3}, "budget": {"trials": 16}}


class KilledError(Exception):
    """The driver is gone."""


def report(record: TrialRecord, images: int) -> Report:
    """What a trial of this choice would measure: its own level, which falls with the images at its own pace."""
    lr = float(record.choice.get("stages.dm.generator_lr", 1e-3))
    k = record.choice["partition.k"]
    level = abs(math.log10(lr) + 3) + 1 / k + (3.0 if record.choice.get("size") == "half" else 0.0)
    fid = level + (1 + math.sin(7 * record.number)) * 20 / images
    return replace(
        BLANK, images=images, final=images == RUNGS[-1], fid=fid, latency_ms=float(k), total_images=k * images
    )


def drive(found: RecipeSpace, store: Store, events: int = 10**9) -> list[Any]:
    """Runs the sweep one trial at a time, in a driver that dies after so many reports; what the journal knows then."""
    from msd_ray.sweep.controller import SweepController

    journal = SweepJournal(store)
    controller = SweepController(found, journal, lambda line: None)
    try:
        while record := controller.next():
            going = True
            for images in (n for n in RUNGS if n > record.images):
                if not going:
                    break
                if events == 0:
                    raise KilledError
                events -= 1
                going = controller.goes_on(record.number, vars(report(record, images)))
    except KilledError:
        pass
    return [(r.number, r.choice, r.state, r.reports) for r in SweepJournal(store).records]


@pytest.mark.parametrize("changes", [ASHA, MEDIAN, OPTUNA | ASHA, OPTUNA], ids=["asha", "median", "tpe+asha", "tpe2"])
def test_a_driver_killed_after_any_report_decides_nothing_otherwise(tmp_path: Path, changes: dict[str, Any]) -> None:
    whole = drive(recipe_space(**changes), Store(str(tmp_path / "whole")))
    assert any(state == "stopped" for _, _, state, _ in whole) or "scheduler" not in changes
    reports = sum(len(r) for *_, r in whole)
    for first in range(1, reports, reports // 3):
        store = Store(str(tmp_path / f"killed-{first}"))
        for events in (first, 3, 2):
            drive(recipe_space(**changes), store, events)
        assert drive(recipe_space(**changes), store) == whole


def test_asha_stops_who_is_not_among_the_best_at_a_rung(tmp_path: Path) -> None:
    """factor 2: at each rung a trial goes on unless it is below the median of those there before it."""
    whole = drive(recipe_space(**ASHA), Store(str(tmp_path)))
    rungs: dict[int, list[float]] = {}
    for _, _, state, reports in whole:
        for r in reports[: None if state == "stopped" else -1]:
            before = sorted(rungs.get(r.images, []))
            middle = (before[(len(before) - 1) // 2] + before[len(before) // 2]) / 2 if before else math.inf
            assert (r.fid > middle) == (state == "stopped" and r is reports[-1])
            rungs.setdefault(r.images, []).append(r.fid)


def test_two_drivers_trials_side_by_side_go_on_in_the_order_in_which_they_reported(tmp_path: Path) -> None:
    """Concurrent trials: what was decided stays, and is not decided again."""
    from msd_ray.sweep.controller import SweepController

    store, found = Store(str(tmp_path)), recipe_space(**ASHA)
    controller = SweepController(found, SweepJournal(store), lambda line: None)
    one, two = controller.next(), controller.next()
    assert one and two
    assert controller.goes_on(two.number, vars(report(two, 40)))
    going = controller.goes_on(one.number, vars(report(one, 40)))
    again = SweepController(found, SweepJournal(store), lambda line: None)
    waiting = [record.number for record in (again.next(), again.next()) if record]
    assert waiting[: 1 + going] == ([0, 1] if going else [1, 2][: 1 + going])


def test_a_report_that_was_known_already_changes_nothing(tmp_path: Path) -> None:
    from msd_ray.sweep.controller import SweepController

    journal = SweepJournal(Store(str(tmp_path)))
    controller = SweepController(recipe_space(**ASHA), journal, lambda line: None)
    record = controller.next()
    assert record and controller.goes_on(0, vars(report(record, 40)))
    assert controller.goes_on(0, vars(report(record, 40)))
    assert len(journal.records[0].reports) == 1


def test_a_trial_that_fails_says_why_and_the_next_one_comes(tmp_path: Path) -> None:
    from msd_ray.sweep.controller import SweepController

    journal, notes = SweepJournal(Store(str(tmp_path))), list[str]()
    controller = SweepController(recipe_space(**OPTUNA), journal, notes.append)
    controller.next()
    assert not controller.goes_on(0, {"error": "the gradient was not finite"})
    assert notes[-1] == "trial 0 failed: the gradient was not finite"
    following = controller.next()
    assert following and following.number == 1
    assert (journal.records[0].state, journal.records[0].reason) == ("failed", "the gradient was not finite")
    again = SweepController(recipe_space(**OPTUNA), SweepJournal(Store(str(tmp_path))), notes.append).next()
    assert again and (again.number, again.choice) == (1, following.choice)


@pytest.mark.parametrize(
    ("budget", "trials"), [({"trials": 4}, 4), ({"images": 900}, 3), ({"gpu_hours": 1}, 6), ({"hours": 1e-9}, 0)]
)
def test_no_trial_begins_once_the_budget_is_spent(tmp_path: Path, budget: dict[str, Any], trials: int) -> None:
    """Images: the first two trials, of one student each, see 320 each, the third 640 in all."""
    whole = drive(recipe_space(budget=budget), Store(str(tmp_path)))
    assert len(whole) == trials


def test_a_budget_that_grows_goes_on(tmp_path: Path) -> None:
    drive(recipe_space(budget={"trials": 2}), Store(str(tmp_path)))
    assert drive(recipe_space(), Store(str(tmp_path))) == drive(recipe_space(), Store(str(tmp_path / "whole")))


def test_a_trial_whose_process_dies_comes_again_until_that_is_too_often(tmp_path: Path) -> None:
    from msd_ray.sweep.controller import SweepController

    controller = SweepController(
        recipe_space(trials={"max_failures": 2}, budget={"trials": 2}), SweepJournal(Store(str(tmp_path))), print
    )
    first, second = controller.next(), controller.next()
    assert first and second and controller.next() is None
    for _ in range(2):
        controller.died(first.number)
        assert not controller.settled and controller.next() is first
    controller.died(first.number)
    assert controller.next() is None and controller.given_up == [first.number] and not controller.settled
    controller.goes_on(second.number, vars(report(second, RUNGS[-1])))
    assert controller.settled and not controller.over
