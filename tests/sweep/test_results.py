"""What a sweep leaves, and what can be asked of it."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from msd_ray.errors import UserError
from msd_ray.storage import Store
from msd_ray.sweep.best import find_best
from msd_ray.sweep.sweep_directory import keep_definition
from msd_ray.sweep.sweep_journal import SweepJournal
from msd_ray.sweep.sweep_page import Page, render
from msd_ray.sweep.sweep_results import conclude, table
from msd_ray.sweep.trial_evaluation import known
from msd_ray.training.state import State

from .cases import BLANK, DM, TSM, recipe_space, record

EVIL = "</script><script>alert(1)</script>"


def test_the_table_has_a_row_per_report_and_reads_back_from_parquet(tmp_path: Path) -> None:
    twice = record(0)
    twice.reports.append(BLANK)
    silent, mixed = record(1, "failed"), record(2)
    silent.reports, mixed.choice = [], {"partition.k": "two"}
    found = table([twice, silent, mixed])
    found.to_parquet(tmp_path / "sweep.parquet")
    again = pd.read_parquet(tmp_path / "sweep.parquet")
    assert again["trial"].tolist() == [0, 0, 1, 2]
    assert again["partition.k"].tolist() == ["0", "0", "1", "two"]
    assert again["fid"].notna().tolist() == [True, True, False, True]
    assert {"latency_ms", "batch_latency_ms", "parameters", "active_parameters", "flops", "state"} <= set(again)


def test_the_page_holds_everything_and_needs_no_network() -> None:
    definition = recipe_space(name=EVIL).definition
    records = [record(0, fid=0.5), record(1, "stopped", fid=None), record(2, "failed")]
    records[2].reason, records[0].choice = EVIL, {"partition.k": EVIL}
    page = render(Page(definition, ["partition.k"], records, {0}, {0: b"png", 1: b""}))
    assert EVIL not in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page) and "@import" not in page
    assert "data:image/png;base64,cG5n" in page
    data = json.loads(re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)[0])
    assert [(row["trial"], row["front"], row["fid"]) for row in data["rows"]] == [
        (0, True, 0.5),
        (1, False, None),
        (2, False, 1.0),
    ]
    assert data["axes"] == ["partition.k", "fid", "latency_ms"]
    assert data["goals"] == ["fid", "latency_ms"] and data["modes"]["precision"] == "max"
    assert set(data["axes"]) <= set(data["rows"][0]) and set(data["columns"]) <= set(data["rows"][0])


def test_a_figure_that_is_not_finite_is_not_known() -> None:
    assert [known(value) for value in (0.5, math.nan, math.inf)] == [0.5, None, None]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A sweep of three trials; 1 was pruned."""
    store, found = Store(str(tmp_path)), recipe_space()
    keep_definition(store, found)
    journal = SweepJournal(store)
    for k, fid, latency in ((1, 0.5, 1.0), (2, 0.4, 2.0), (4, 0.1, 9.0)):
        made = journal.open({"partition.k": k, "size": "full"})
        report = record(0, fid=fid, latency_ms=latency).reports[0]
        journal.report(made.number, report, "done")
        run = store.child("trials").child(f"{made.number:04d}")
        run.write("recipe.json", json.dumps(found.recipe(made.number, made.choice).to_json()).encode())
    journal.prune(1)
    return store


def test_the_best_is_named_with_its_recipe_and_its_ensemble(store: Store) -> None:
    found = find_best(store.uri, "fid,latency", {"latency_ms": 5.0})
    assert found.record.choice["partition.k"] in (1, 2)
    quickest = find_best(store.uri, "latency", {})
    assert quickest.ensemble == f"{store.uri}/trials/0000/ensemble"
    assert quickest.recipe["partition"]["k"] == 1 and quickest.to_json()["ensemble"] == quickest.ensemble
    assert find_best(store.uri, "fid", {}).record.choice["partition.k"] == 4


def test_a_best_trial_that_was_pruned_says_how_to_make_it_again(store: Store) -> None:
    found = find_best(store.uri, "fid", {"latency_ms": 5.0})
    assert found.to_json()["ensemble"] is None
    assert found.lines()[-1].endswith(f"msd-ray train {store.uri}/trials/0001/recipe.json makes it again")


def test_a_metric_or_a_sweep_that_is_not_there_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no trial reports 'speed', only fid"):
        find_best(store.uri, "fid,speed", {})
    with pytest.raises(UserError, match="holds no sweep"):
        find_best(f"{store.uri}/nowhere", "", {})
    monkeypatch.chdir(store.uri)
    with pytest.raises(UserError, match="name a sweep's directory: none is in runs/sweeps"):
        find_best("", "", {})


def test_students_are_shared_by_trials_that_are_alike_until_then_and_by_no_others(tmp_path: Path) -> None:
    from msd_ray.runs.curves import logged
    from msd_ray.runs.run_directory import folder, images_of
    from msd_ray.sweep.shared_stages import adopt, publish, shared_folder
    from msd_ray.training.checkpoints import Checkpoints
    from msd_ray.training.metrics import Metric
    from msd_ray.training.records import LoggedSegment, Records

    stages = {"tsm": TSM, "dm": DM}
    found = recipe_space(
        overrides={"partition.kind": "sequential", "stages": stages},
        space={
            "partition.k": [2],
            "stages.dm.generator_lr": [1e-3, 2e-3],
            "seed": [0, 1],
            "stages.tsm.batch": [16, 32],
        },
    )
    store = Store(str(tmp_path))
    first, *others = found.check()
    alike = [p for p in others if shared_folder(store, p, 160).uri == shared_folder(store, first, 160).uri]
    said = [(p.recipe.seed, p.recipe.stages["tsm"].batch) for p in alike]
    assert said == [(0, 16)] and alike[0].recipe.stages["dm"].generator_lr == 2e-3
    one, two, shared = (store.child(name) for name in ("one", "two", "shared"))
    assert not adopt(two, alike[0], 160, shared)
    for student in first.students:
        state = State({"ema": {}}, {"nimg": 160, "stage": "tsm"})
        home = folder(one, student.directory)
        Checkpoints(home, 2).save(state)
        Records(home).write(80, LoggedSegment([Metric("tsm", 80, "tsm", 2.0)]))
        Records(home).write(160, LoggedSegment([Metric("tsm", 160, "tsm", 1.0)], after=80))
    publish(one, first, 160, shared)
    (damaged,) = (tmp_path / "shared" / "0001").glob("ckpt-*/ema.safetensors")
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    assert not adopt(two, alike[0], 160, shared)
    damaged.write_bytes(whole)
    assert adopt(two, alike[0], 160, shared)
    for student in alike[0].students:
        assert images_of(two, student) == 160
        assert [(m.nimg, m.value) for m in logged(two, student)] == [(80, 2.0), (160, 1.0)]


def test_a_kept_trial_says_which_teacher_of_the_recipes_it_had(tmp_path: Path) -> None:
    store, space = Store(str(tmp_path)), recipe_space()
    store.write("teacher.json", b'{"fingerprint": "mine"}')
    journal: Any = SimpleNamespace(records=[record(0), record(1, "failed")], prune=lambda number: None)
    journal.records[1].reports = []
    conclude(store, space, journal, over=True)
    trials = store.child("trials")
    assert trials.child("0000").read("teacher.json") == b'{"fingerprint": "mine"}'
    assert not trials.child("0001").exists("teacher.json")
