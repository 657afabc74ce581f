"""A small experiment through the same driver as `msd-ray train`; again, it only reads what it knows."""

import json
from pathlib import Path

import pytest

from msd_ray.reproduce.experiment import Arm, Claim, Experiment, below

pytestmark = [pytest.mark.ray, pytest.mark.slow]
TINY = str(Path(__file__).parents[1] / "faults" / "tiny.yaml")
SHORT = ("stages={dm: {objective: dm, images: 64, batch: 16, fake_steps: 1}}", "cluster.teacher=local")
ARMS = tuple(Arm(f"K = {k}", TINY, (f"partition.k={k}", *SHORT), k) for k in (1, 2))
MINE = Experiment(
    "mine", "Mine", ARMS, (Claim("two", below("l1", "K = 2", "K = 1", 10)),), ("l1", "fid", "images"), "K"
)


class Notes:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.trained: set[str] = set()

    def note(self, line: str) -> None:
        self.lines.append(line)

    def watch(self, statuses: list[object]) -> None:
        self.trained |= {s.name for s in statuses}  # type: ignore[attr-defined]


def test_arms_are_trained_once_and_measured(cluster: None, tmp_path: Path) -> None:
    from msd_ray.reproduce.reproduce import reproduce

    first, again = Notes(), Notes()
    found, findings = reproduce(MINE, [0], str(tmp_path), None, first)
    assert first.trained >= {"student 0", "student 1"}
    assert found["K = 1"]["images"].values == (64.0,)
    assert found["K = 2"]["images"].values == (128.0,)
    assert found["teacher"]["fid"].mean >= 0
    assert all(found[arm.name]["l1"].mean > 0 for arm in ARMS)
    assert [f.claim for f in findings] == ["two"]
    without_a_later_key(tmp_path / "k-1-seed0" / "result.json", "training", "anchors")
    assert reproduce(MINE, [0], str(tmp_path), None, again) == (found, findings)
    assert not again.trained


def without_a_later_key(result: Path, section: str, name: str) -> None:
    """As a version wrote it whose recipes did not have the key."""
    content = json.loads(result.read_text())
    recipe = json.loads(content["key"])
    del recipe[section][name]
    result.write_text(json.dumps(content | {"key": json.dumps(recipe)}))


def test_arms_that_branch_off_from_one_trunk_train_it_once(cluster: None, tmp_path: Path) -> None:
    from msd_ray.reproduce.reproduce import reproduce

    stage = "{objective: dm, batch: 16, fake_steps: 1, images: "
    arms = tuple(
        Arm(
            f"K = {k} at {at}",
            TINY,
            (f"partition.k={k}", f"stages={{trunk: {stage}{at}, shared: true}}, dm: {stage}64}}}}"),
        )
        for k, at in ((1, 64), (2, 128), (2, 64))
    )
    notes = [Notes() for _ in arms]
    for number, arm in enumerate(arms):
        reproduce(Experiment("one", "One", (arm,), (), ("fid",)), [0], str(tmp_path), None, notes[number])
    assert [("trunk" in note.trained) for note in notes] == [True, True, False]
    of_trunk = {path.name for path in (tmp_path / "k-2-at-128-seed0" / "trunks" / "0000" / "metrics").iterdir()}
    assert of_trunk == {"000000000064.json", "000000000128.json"}  # it went on from where the first arm's trunk ended
