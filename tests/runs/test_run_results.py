"""A small run from the teacher to the report, and what the commands make of it afterwards."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from msd_ray.ensemble import Ensemble
from msd_ray.errors import CorruptError, UserError
from msd_ray.runs import run_results as results
from msd_ray.runs.evaluation_pieces import here
from msd_ray.runs.generate import generate_file, numbers
from msd_ray.runs.run_context import RunContext

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]
TINY = str(Path(__file__).parents[1] / "faults" / "tiny.yaml")
SHORT = ["partition.kind=kmeans", "stages.dm.images=160", "stages.adm.images=160", "evaluation.baselines=true"]


class Silent:
    def note(self, line: str) -> None: ...

    def watch(self, statuses: object) -> None: ...


def train(run_dir: Path, *overrides: str) -> RunContext:
    from msd_ray.cluster.train import train as train_plan

    context = RunContext.of(TINY, [*SHORT, *overrides], str(run_dir))
    train_plan(context.plan, context.store, context.cache, None, Silent())
    return context


@pytest.fixture(scope="module")
def trained(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("trained")
    results.evaluate_once(train(run_dir), here, lambda _: None)
    return run_dir


@pytest.fixture
def run_dir(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may damage."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_the_table_has_every_row_and_its_costs(run_dir: Path) -> None:
    rows = {
        row.name: row for row in results.evaluate_once(RunContext.of(TINY, SHORT, str(run_dir)), here, lambda _: None)
    }
    single = ["one student, same images each", "one student, same total images"]
    assert list(rows)[:3] == ["real, held out", "teacher", "ensemble"]
    assert [name for name in rows if name.startswith("student ")] == list(rows)[3:5]
    assert list(rows)[5:] == single
    assert (rows["teacher"].nfe, rows["ensemble"].nfe) == (35, 1)
    assert (rows["ensemble"].images, rows[single[0]].images, rows[single[1]].images) == (640, 320, 640)
    assert rows["ensemble"].parameters == 2 * (rows[single[0]].parameters or 0)
    for name in ("teacher", "ensemble", *single):
        assert (rows[name].cpu_seconds or 0) > 0
        assert (rows[name].ms_per_image or 0) > 0


def test_a_finished_run_is_not_measured_again(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*_: object) -> None:
        raise AssertionError("measured again")

    before = results.evaluate_once(RunContext.of(TINY, SHORT, str(run_dir)), here, lambda _: None)
    monkeypatch.setattr(results, "measured_rows", measure)
    assert results.evaluate_once(train(run_dir), here, lambda _: None) == before
    with pytest.raises(AssertionError, match="measured again"):
        results.evaluate_once(
            RunContext.of(TINY, [*SHORT, "evaluation.samples=32"], str(run_dir)), here, lambda _: None
        )


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": 1}', '{"rows": []}', "\udcff"])
def test_a_damaged_table_is_measured_again(run_dir: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = results.evaluate_once(context := RunContext.of(TINY, SHORT, str(run_dir)), here, lambda _: None)
    (run_dir / "evaluation.json").write_bytes(content.encode(errors="surrogateescape"))
    monkeypatch.setattr(results, "measured_rows", lambda *_: rows[:1])
    assert results.evaluate_once(context, here, lambda _: None) == rows[:1]


def test_curves_are_long_and_complete(run_dir: Path) -> None:
    curves = pd.read_parquet(run_dir / "metrics.parquet")
    assert list(curves.columns) == ["student", "stage", "nimg", "name", "value"]
    assert set(curves["stage"]) == {"dm", "adm"}
    names = {
        "dm",
        "gan",
        "head",
        "fake_score",
        "fid@16",
        "wall_seconds",
        "cpu_seconds",
        "teacher_cpu_seconds",
        "tflops",
    }
    assert names <= set(curves["name"])
    assert np.isfinite(curves["value"]).all()
    assert not curves.duplicated(["student", "nimg", "name"]).any()


def test_another_recipe_is_refused_and_names_the_difference(run_dir: Path) -> None:
    before = (run_dir / "recipe.json").read_bytes()
    with pytest.raises(UserError, match=r"another seed \(there 0, here 5\)"):
        train(run_dir, "seed=5")
    with pytest.raises(UserError, match=r"another evaluation.features"):
        train(run_dir, "evaluation.features=identity")  # on which a k-means partition depends
    assert (run_dir / "recipe.json").read_bytes() == before


@pytest.mark.parametrize("lost", ["", "student-0001.safetensors"])
def test_a_lost_ensemble_is_made_again_of_the_checkpoints(
    run_dir: Path, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Ensemble.load(str(run_dir / "ensemble")).generate([0, 1, 2, 3], [1, 2, 3, 4])
    (run_dir / "ensemble" / lost).unlink() if lost else shutil.rmtree(run_dir / "ensemble")
    notes: list[str] = []
    monkeypatch.setattr(Silent, "note", lambda self, line: notes.append(line))
    train(run_dir)
    assert any(f"{lost} is damaged: it is missing" in note for note in notes) == bool(lost)
    assert torch.equal(Ensemble.load(str(run_dir / "ensemble")).generate([0, 1, 2, 3], [1, 2, 3, 4]), before)


def test_evaluate_measures_a_run_or_a_bare_ensemble(run_dir: Path) -> None:
    of_run = results.evaluate_uri(str(run_dir), ["evaluation.samples=32"], here, lambda _: None)
    of_ensemble = results.evaluate_uri(str(run_dir / "ensemble"), ["evaluation.samples=32"], here, lambda _: None)
    by_name = {row.name: row for row in of_run}
    assert [row.name for row in of_ensemble] == ["real, held out", "ensemble"]
    assert of_ensemble[1].scores == by_name["ensemble"].scores
    with pytest.raises(UserError, match="only keys under evaluation"):
        results.evaluate_uri(str(run_dir), ["seed=3"], here, lambda _: None)


def test_what_is_missing_or_damaged_is_said_in_one_line(run_dir: Path, tmp_path: Path) -> None:
    (run_dir / "teacher" / "manifest.json").unlink()
    with pytest.raises(UserError, match="holds no teacher"):
        results.evaluate_uri(str(run_dir), [], here, lambda _: None)
    (run_dir / "recipe.json").write_bytes(b"\xff{")
    with pytest.raises(CorruptError, match=r"recipe\.json is damaged"):
        results.evaluate_uri(str(run_dir), [], here, lambda _: None)
    with pytest.raises(UserError, match="not a run directory"):
        results.report_uri(str(tmp_path / "nowhere"), here, lambda _: None)


def test_an_unfinished_run_has_a_report_of_its_curves(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "ensemble")
    (run_dir / "report.html").unlink()
    written = results.report_uri(str(run_dir), here, lambda _: None)
    assert [Path(uri).name for uri in written] == ["metrics.parquet", "report.html"]
    assert "<svg" in (run_dir / "report.html").read_text() or "data:image/svg" in (run_dir / "report.html").read_text()


def test_generate_writes_what_the_ensemble_makes(run_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "samples.npy"
    facts = generate_file(str(run_dir), "1,3", "5-7", output)
    made = np.load(output)
    assert (facts["samples"], made.shape) == (6, (2, 3, 2))
    expected = Ensemble.load(str(run_dir / "ensemble")).generate([1, 1, 1, 3, 3, 3], [5, 6, 7, 5, 6, 7])
    assert np.array_equal(made.reshape(6, 2), expected.numpy())
    with pytest.raises(UserError, match=r"write them as \.npy"):
        generate_file(str(run_dir), "", "0", tmp_path / "points.png")
    with pytest.raises(UserError):
        generate_file(str(run_dir), "4", "0", output)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["samples.npy"]


def test_points_go_into_an_array_unless_said_otherwise(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert generate_file(str(run_dir), "0", "0", None)["output"] == "samples.npy"
    assert np.load("samples.npy").shape == (1, 1, 2)


def test_numbers_are_lists_and_ranges() -> None:
    assert numbers("0-2,5", "seeds") == [0, 1, 2, 5]
    for wrong in ("", "a", "1-", "3-1", "1,,2"):
        with pytest.raises(UserError, match="seeds"):
            numbers(wrong, "seeds")


def test_the_report_is_in_the_run(run_dir: Path) -> None:
    html = (run_dir / "report.html").read_text()
    assert "ring 3" in html
    assert "generator_lr" in html
    known = json.loads((run_dir / "evaluation.json").read_text())
    assert known["rows"][2]["name"] == "ensemble"
