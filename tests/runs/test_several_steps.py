"""A run of students that share the noise levels, from its plan to the report; weights are random, and no Ray starts."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from msd_ray.cli import main
from msd_ray.diffusion import heun
from msd_ray.ensemble import Ensemble, Sampling, save_ensemble, seeded_noise
from msd_ray.errors import UserError
from msd_ray.runs import run_results as results
from msd_ray.runs.evaluation_pieces import here
from msd_ray.runs.generate import generate_file
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_directory import folder
from msd_ray.runs.sample_sources import teacher_sampler
from msd_ray.runs.teacher_cache import load_teacher
from msd_ray.storage import read_manifest
from msd_ray.teachers.kept_teacher import KeptTeacher

from .finished import finished

torch.set_num_threads(1)

KD = [
    "stages={kd: {objective: o2mkd, images: 160, batch: 16}}",
    "partition.kind=sequential",
    "teacher.steps=4",
    "evaluation.baselines=true",
]
GRID = [*KD, "partition.timesteps=3"]
SINGLE = ["one student, same images each", "one student, same total images"]


@pytest.fixture
def grid(tmp_path: Path) -> RunContext:
    return finished(tmp_path / "run", GRID)


def test_the_table_says_what_each_sampler_takes(grid: RunContext) -> None:
    rows = {row.name: row for row in results.evaluate_once(grid, here, lambda _: None)}
    assert list(rows) == ["real, held out", "teacher", "ensemble", *SINGLE]
    assert [rows[name].nfe for name in ("teacher", "ensemble", *SINGLE)] == [7, 7, 7, 7]
    assert rows["ensemble"].parameters == 6 * (rows[SINGLE[0]].parameters or 0)
    assert [rows[name].images for name in ("ensemble", *SINGLE)] == [6 * 160, 160, 6 * 160]
    assert rows["ensemble"].cpu_seconds == pytest.approx(6 * 2)


def test_students_of_conditions_alone_have_rows_of_their_own(tmp_path: Path) -> None:
    rows = results.evaluate_once(finished(tmp_path / "run", KD), here, lambda _: None)
    names = ["student 0 (classes ring 0, ring 1)", "student 1 (classes ring 2, ring 3)"]
    assert [row.name for row in rows[2:]] == ["ensemble", *names, *SINGLE]
    assert {row.nfe for row in rows[1:]} == {7}


def test_the_teacher_is_also_asked_as_the_ensemble_is(grid: RunContext) -> None:
    made = Ensemble.load(folder(grid.store, "ensemble"))
    other = Sampling("ddim", 5, grid.recipe.noise)
    save_ensemble(folder(grid.store, "ensemble"), made.recipe, made.partition, made.labels, made.members, other)
    rows = {row.name: row.nfe for row in results.measured_rows(grid, here, lambda _: None)}
    assert list(rows)[1:4] == ["teacher", "teacher, 5 steps of ddim", "ensemble"]
    assert list(rows.values())[1:4] == [7, 5, 5]


def test_a_bare_ensemble_is_measured_as_in_its_run(grid: RunContext) -> None:
    of_run = {row.name: row for row in results.evaluate_uri(grid.store.uri, [], here, lambda _: None)}
    _, alone = results.evaluate_uri(f"{grid.store.uri}/ensemble", [], here, lambda _: None)
    assert (alone.scores, alone.nfe) == (of_run["ensemble"].scores, 7)


def test_the_manifest_says_who_owns_what_and_how_to_sample(grid: RunContext) -> None:
    body = read_manifest(folder(grid.store, "ensemble")).body
    assert body["partition"]["owners"] == [0, 0, 1, 1]
    assert len(body["partition"]["borders"]) == 2
    assert (body["sampling"]["kind"], body["sampling"]["steps"]) == ("heun", 4)
    assert body["sampling"]["noise"]["sigma_max"] == 80.0
    assert [(s["part"], s["conditions"]) for s in body["students"]] == [(0, 2)] * 3 + [(1, 2)] * 3


def test_the_report_says_that_students_take_turns(grid: RunContext) -> None:
    written = results.report_uri(grid.store.uri, here, lambda _: None)
    assert [Path(uri).name for uri in written] == ["metrics.parquet", "report.html", "samples.png"]
    html = Path(written[1]).read_text()
    assert "6 students" in html
    assert "3 students make each sample in turn, in 7 network evaluations" in html
    assert "0.002 to" in html and "to 80" in html


def test_the_teacher_is_asked_as_told(grid: RunContext) -> None:
    teacher = KeptTeacher(grid.store.child("teacher"))
    sample = teacher_sampler(teacher, Sampling("heun", 6, grid.recipe.noise), grid.conditions, torch.device("cpu"))
    z = seeded_noise([3, 4], (2,))
    expected = heun(load_teacher(teacher), z, torch.tensor([0, 1]), grid.recipe.noise, 6)
    torch.testing.assert_close(sample(torch.tensor([0, 1]), [3, 4]), expected)


def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["msd-ray", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_generate_takes_a_sampler_and_steps(
    grid: RunContext, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "x.npy"
    arguments = ("generate", grid.store.uri, "--seeds", "0-2", "-o", str(output), "--json")
    made = {}
    for nfe, options in [(7, []), (9, ["--steps", "5"]), (5, ["--sampler", "ddim", "--steps", "5"])]:
        code, out, _ = command(capsys, monkeypatch, *arguments, *options)
        assert code == 0
        assert json.loads(out)["nfe"] == nfe
        made[nfe] = np.load(output)
        assert made[nfe].shape == (4, 3, 2)
    own = Ensemble.load(folder(grid.store, "ensemble")).generate([c for c in range(4) for _ in "123"], [0, 1, 2] * 4)
    assert np.array_equal(made[7].reshape(12, 2), own.numpy())
    assert not np.allclose(made[7], made[9]) and not np.allclose(made[7], made[5])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sampler", "euler"], "there is no sampler 'euler', only heun and ddim"),
        (["--steps", "2"], "heun takes 3 to 18 steps (5 to 35 evaluations), not 2"),
        (["--sampler", "ddim"], "ddim takes 5 to 35 steps (5 to 35 evaluations), not 4"),
        (["--steps", "many"], "--steps"),
    ],
)
def test_samplers_that_cannot_be_are_one_line_and_nothing_is_written(
    options: list[str],
    message: str,
    grid: RunContext,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "x.npy"
    code, out, err = command(capsys, monkeypatch, "generate", grid.store.uri, "-o", str(output), *options)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not output.exists()


def test_one_step_students_refuse_a_sampler(tmp_path: Path) -> None:
    short = ["stages={dm: {objective: dm, images: 160, batch: 16}}", "partition.kind=sequential"]
    context = finished(tmp_path / "run", short)
    with pytest.raises(UserError, match="single step"):
        generate_file(context.store.uri, "", "0", tmp_path / "x.npy", steps=18)
    assert generate_file(context.store.uri, "", "0", tmp_path / "x.npy")["nfe"] == 1
