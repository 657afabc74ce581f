"""A run whose conditions are prompts: its plan, its table and its report."""

import json
from pathlib import Path

import pytest
import torch

from msd_ray.ensemble import Ensemble
from msd_ray.evaluation import clip, tables
from msd_ray.runs import run_results as results
from msd_ray.runs.evaluation_pieces import here
from msd_ray.runs.plan_description import describe
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.sample_sources import ensemble_sampler
from msd_ray.storage import read_manifest
from tests.pipelines import write_clip

from .finished import finished

PROMPTS = [
    "conditions={kind: prompts, options: {width: 16}}",
    "partition={k: 2, kind: keywords, keywords: [['0']]}",
    "evaluation.baselines=true",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    return finished(tmp_path_factory.mktemp("prompts") / "run", PROMPTS)


def test_a_plan_shows_parts_of_unequal_size(run: RunContext) -> None:
    owns = [student["owns"] for student in describe(run.plan)["students"]]
    assert owns[:2] == ["prompt ring 0", "prompts ring 1, ring 2, ring 3"]
    assert run.plan.teacher.classes == 16


def test_teacher_and_students_are_judged_by_the_prompts_of_the_data(run: RunContext) -> None:
    rows = {row.name: row for row in results.evaluate_once(run, here, lambda _: None)}
    names = ["student 0 (prompt ring 0)", "student 1 (prompts ring 1, ring 2, ring 3)"]
    assert list(rows)[1:5] == ["teacher", "ensemble", *names]
    n = run.recipe.evaluation.samples
    assert [rows[name].scores.n for name in ("teacher", "ensemble", *names)] == [n, n, n // 4, 3 * n // 4]


def test_pictures_have_a_clip_score_with_the_prompts_they_were_asked_for(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip")
    small = ["evaluation.samples=40", "evaluation.kid_subsets=2", "teacher.steps=2", "partition.keywords=[['0']]"]
    judged = ["evaluation.features=identity", "evaluation.also=[clip]", f"evaluation.clip={tmp_path / 'clip'}"]
    stages = "stages={dm: {objective: dm, images: 160, batch: 16}}"
    run = finished(
        tmp_path / "run", [*PROMPTS[:1], "partition.kind=keywords", "partition.k=2", *small, *judged, stages], "digits"
    )
    rows = {row.name: row for row in results.evaluate_once(run, here, lambda _: None)}
    x = ensemble_sampler(Ensemble.load(run.store.child("ensemble")), run.conditions)(
        torch.arange(40) % 10, list(range(40))
    )
    net = clip.load(run.recipe.evaluation.clip)
    expected = clip.clip_score(net.features(x), net.of_texts([str(i % 10) for i in range(40)]))
    ensemble = rows["ensemble"]
    assert ensemble.also[0].clip_score == pytest.approx(expected, rel=1e-6) and ensemble.scores.clip_score is None
    assert rows["teacher"].also[0].clip_score != pytest.approx(expected, rel=1e-6)
    assert "CLIP score" in tables(list(rows.values()))[1][0]


def test_no_text_is_kept_with_the_weights(run: RunContext) -> None:
    for folder in ("teacher", "ensemble"):
        assert "ring" not in json.dumps(read_manifest(run.store.child(folder)).body)
    assert Path(run.store.uri, "ensemble", "owners.npy").exists()
