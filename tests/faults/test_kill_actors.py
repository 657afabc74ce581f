"""kill -9 of student and teacher actors: the run completes, and nobody can tell from its weights."""

import random
import time
from pathlib import Path

import pytest

from .conftest import Killer, Run, Undisturbed, processes, weights_in

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.parametrize("moment", range(3))
def test_weights_are_those_of_an_undisturbed_run(
    moment: int, train: Run, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    rng = random.Random(moment)
    delays = {title: rng.uniform(0.2, 0.6 * undisturbed.seconds) for title in ("ray::Slot", "ray::TeacherActor")}
    killers = [Killer(title, delay) for title, delay in delays.items()]
    ear = train(tmp_path)
    assert all(killer.victim for killer in killers)
    assert [s.state for s in ear.statuses] == ["done", "done"]
    assert weights_in(tmp_path) == undisturbed.weights


def test_a_death_is_counted_and_the_student_resumes(train: Run, undisturbed: Undisturbed, tmp_path: Path) -> None:
    Killer("ray::Slot.advance", 1.0)  # once it trains, so that there is something to lose
    ear = train(tmp_path)
    assert sum(s.restarts for s in ear.statuses) == 1
    assert weights_in(tmp_path) == undisturbed.weights


def test_two_runs_are_equal_and_other_seeds_are_not(train: Run, undisturbed: Undisturbed, tmp_path: Path) -> None:
    train(tmp_path / "same", "cluster.teacher=local")
    assert weights_in(tmp_path / "same") == undisturbed.weights
    train(tmp_path / "other", "seed=1", "stages.dm.images=160", "stages.adm.images=160")
    assert not set(weights_in(tmp_path / "other").values()) & set(undisturbed.weights.values())


def test_no_actor_outlives_its_run(train: Run, undisturbed: Undisturbed, tmp_path: Path) -> None:
    train(tmp_path, "stages.dm.images=160", "stages.adm.images=160")
    deadline = time.monotonic() + 30  # an actor is told to end, not waited for
    while left := processes("ray::Slot") + processes("ray::TeacherActor"):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.2)
