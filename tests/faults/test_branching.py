"""kill -9 of a trunk, of its branches, and between the two: the weights are those of an undisturbed run."""

import random
from pathlib import Path
from typing import Any

import pytest

from .conftest import Ear, Killer, Run, weights_in

pytestmark = [pytest.mark.ray, pytest.mark.slow]
TRUNK, OWN = 960, 640
STAGE = "objective: dm, batch: 16, fake_steps: 1, generator_lr: 1e-3, fake_lr: 1e-3"
TREE = f"stages={{dm: {{{STAGE}, images: {TRUNK}, shared: true}}, own: {{{STAGE}, images: {OWN}}}}}"

TWENTY = [random.Random(i).uniform(1, TRUNK + OWN) for i in range(20)]


class Assassin(Ear):
    """Kills a student's process once the run has seen so many images, as a trunk or in branches."""

    def __init__(self, moments: list[float]) -> None:
        super().__init__()
        self.moments, self.rng, self.killers = sorted(moments), random.Random(0), list[Killer]()

    def watch(self, statuses: list[Any]) -> None:
        super().watch(statuses)
        newest = {s.name: s.newest.nimg for s in statuses if s.newest}
        seen = newest.pop("trunk", 0) + sum(max(0, nimg - TRUNK) for nimg in newest.values())
        if self.moments and seen >= self.moments[0]:
            self.moments.pop(0)
            self.killers.append(Killer("ray::Slot.advance", self.rng.uniform(0, 0.3)))


@pytest.fixture(scope="module")
def undisturbed(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    from .conftest import train_tiny

    folder = tmp_path_factory.mktemp("branching")
    ear = train_tiny(folder, TREE)
    assert [(s.name, s.progress.nimg) for s in ear.statuses] == [
        ("trunk", TRUNK), ("student 0", TRUNK + OWN), ("student 1", TRUNK + OWN),
    ]  # fmt: skip
    return weights_in(folder)


@pytest.mark.parametrize(
    "moments",
    [[300, TRUNK, TRUNK + 700], pytest.param(TWENTY, marks=pytest.mark.nightly)],
    ids=["each", "twenty"],
)
def test_a_tree_that_is_cut_ends_as_one_that_is_not(
    moments: list[float], train: Run, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    assassin = Assassin(moments)
    train(tmp_path, TREE, "cluster.max_failures=50", ear=assassin)  # kills come faster than segments
    assert assassin.killers and not assassin.moments
    assert [s.state for s in assassin.statuses] == ["done"] * 3
    assert weights_in(tmp_path) == undisturbed
    again = train(tmp_path, TREE)
    assert not again.statuses  # the trunk is not trained anew for branches that are done
