"""Whole sweeps on a cluster, of trials that take a second each."""

import json
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from msd_ray.ensemble import Ensemble
from msd_ray.errors import UserError
from msd_ray.storage import Store
from msd_ray.sweep.best import find_best
from msd_ray.sweep.sweep_journal import SweepJournal

from .cases import DM, SAID, TSM, Notes, recipe_space

pytestmark = [pytest.mark.ray, pytest.mark.slow]


class Eye(threading.Thread):
    """Sees all actors of this process's cluster that live at any time meanwhile, and kills -9 the first process in
    which trials run, a moment after it begins. teachers: pids; each loads the teacher once, as it begins."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.teachers, self.victims, self.over = set[int](), set[int](), threading.Event()
        self.start()

    def run(self) -> None:
        while not self.over.wait(0.2):
            for process in psutil.Process().children(recursive=True):
                title = _title(process)
                if "TeacherActor" in title:
                    self.teachers.add(process.pid)
                if "Trainable.train" in title and not self.victims:
                    self.victims.add(process.pid)
                    process.kill()


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def run(found: Any, folder: Path) -> Any:
    from msd_ray.sweep.sweep import sweep

    return sweep(found, Store(str(folder)), None, Notes())


@pytest.mark.timeout(600)
def test_trials_share_what_they_can_and_one_that_diverges_stops_no_other(cluster: None, tmp_path: Path) -> None:
    """Two trials at a time, of up to four students, on a cluster that has room for a single student; and somebody kills
    a trial's process."""
    mad = {"stages.dm.generator_lr": 1e9, "stages.dm.warmup": 0}
    rates: dict[str, Any] = {
        "fast": {"stages.dm.generator_lr": 2e-3},
        "narrow first": {"students.0.channel_factor": 0.5},
        "mad": mad,
    }
    found = recipe_space(
        overrides={
            "partition.kind": "sequential",
            "stages": {"tsm": TSM, "dm": DM},
            "training.max_skipped": 0,
            "cluster.cpus_per_student": 3.0,
        },
        space={"partition.k": [4, 1], "rate": rates},
        trials={"concurrent": 2},
    )
    eye = Eye()
    journal = run(found, tmp_path)
    eye.over.set()
    assert len(eye.teachers) == 1 and len(eye.victims) == 1
    for record in journal.records:
        assert record.state == ("failed" if record.choice["rate"] == "mad" else "done")
        assert record.state == "done" or "not finite" in record.reason
    assert [r.choice for r in journal.records] == found.listed
    check_what_is_left(tmp_path, journal.records)

    before = (tmp_path / "journal.jsonl").read_bytes()
    run(found, tmp_path)
    assert (tmp_path / "journal.jsonl").read_bytes() == before


def check_what_is_left(folder: Path, records: list[Any]) -> None:
    rows = pd.read_parquet(folder / "sweep.parquet")
    assert sorted(rows["total_images"].dropna().unique()) == [480, 1920]
    assert (rows["latency_ms"].dropna() > 0).all() and (rows["flops"].dropna() > 0).all()
    best = find_best(str(folder), "fid", {})
    assert Ensemble.load(best.ensemble).generate([0, 3], [1, 2]).shape == (2, 2)
    for record in records:
        trial = folder / "trials" / f"{record.number:04d}"
        assert (trial / "ensemble").exists() == record.kept
        assert (trial / "samples.png").exists() == bool(record.reports)
    assert not (folder / "shared").exists()
    assert (folder / "report.html").exists()


def test_more_students_than_slots_are_refused_where_they_may_not_take_turns(cluster: None, tmp_path: Path) -> None:
    overrides = {**SAID["overrides"], "cluster.cpus_per_student": 1.0}
    found = recipe_space(overrides=overrides, trials={"queue": False})
    with pytest.raises(
        UserError, match="1 trials of up to 4 students at a time need 4 slots, the cluster has room for 3"
    ):
        run(found, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_a_storage_that_is_full_ends_the_sweep_in_one_line(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise UserError("no space left on device")

    monkeypatch.setattr(SweepJournal, "report", full)
    with pytest.raises(UserError, match=r"^no space left on device$"):
        run(recipe_space(budget={"trials": 1}), tmp_path)


@pytest.mark.timeout(600)
def test_six_trials_with_three_branch_points_train_their_trunk_once(cluster: None, tmp_path: Path) -> None:
    """Two trials at a time; the one with the furthest branch point comes first, then the nearest."""
    found = recipe_space(
        overrides={
            "partition.kind": "sequential",
            "stages": {"trunk": DM | {"shared": True}, "own": DM | {"images": 160}},
            "training.checkpoint_every": 160,
            "cluster.cpus_per_student": 1.0,
        },
        space={"stages.trunk.images": [480, 160, 320], "partition.k": [4, 2]},
        metrics={"fid": "min"},
        trials={"concurrent": 2},
    )
    journal = run(found, tmp_path)
    assert [record.state for record in journal.records] == ["done"] * 6
    assert len(measured(tmp_path, journal.records, "trunk", "wall_seconds")) == 480 / 160
    assert not (tmp_path / "shared").exists()
    rows = pd.read_parquet(tmp_path / "sweep.parquet")
    images = rows["stages.trunk.images"] + rows["partition.k"] * 160
    assert (rows["total_images"] == images).all() and rows["flops"].rank().equals(images.rank())


def test_trials_learn_their_partition_after_the_trunk_that_they_share(cluster: None, tmp_path: Path) -> None:
    found = recipe_space(
        overrides={"stages": {"trunk": DM | {"images": 320, "shared": True}, "own": DM | {"images": 160}}},
        space={"partition.kind": ["sequential", "learned"], "partition.k": [2]},
        metrics={"fid": "min"},
        trials={"concurrent": 1},
    )
    journal = run(found, tmp_path)
    assert [record.state for record in journal.records] == ["done"] * 2
    for record in journal.records:
        trial = tmp_path / "trials" / f"{record.number:04d}"
        kinds = {json.loads((trial / "partition.json").read_text())["kind"]}
        kinds.add(json.loads((trial / "recipe.json").read_text())["partition"]["kind"])
        assert len(kinds) == 1


def measured(folder: Path, records: list[Any], stage: str, name: str) -> set[float]:
    """The different values of a figure in the logs of all trials' trunks. Training twice never takes the same time."""
    logs = [log for r in records for log in (folder / "trials" / f"{r.number:04d}" / "trunks").glob("*/metrics/*.json")]
    rows = [row for log in logs for row in json.loads(log.read_text())["rows"]]
    return {value for of, _, called, value in rows if (of, called) == (stage, name)}
