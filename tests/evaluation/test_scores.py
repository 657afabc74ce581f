import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from msd_ray.data import DataSet
from msd_ray.evaluation import (
    Costs,
    EvaluationConfig,
    FeatureNet,
    Judge,
    held_out_row,
    load_features,
    sampler_row,
    student_rows,
)
from msd_ray.storage import Store

CONFIG = EvaluationConfig(samples=90, curve_samples=20, batch=32, kid_subsets=5)


@pytest.fixture
def judge(toy: DataSet, tmp_path: Path) -> Judge:
    return Judge(load_features("auto", toy, Store(str(tmp_path))), toy.train, CONFIG)


@pytest.mark.parametrize(
    "wrong",
    [{"samples": 3}, {"batch": 0}, {"curve_samples": 1}, {"neighbours": 0}, {"kid_subsets": 0}, {"features": "magic"}],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        dataclasses.replace(EvaluationConfig(), **wrong)


def test_the_reference_scores_perfectly_against_itself(judge: Judge, toy: DataSet) -> None:
    scores = judge.score(toy.train.x, toy.train.condition)
    assert scores.n == len(toy.train)
    assert scores.fid == judge.fid(toy.train.x) == pytest.approx(0, abs=1e-9)
    assert (scores.precision, scores.recall, scores.agreement) == (1, 1, 1)


def test_real_digits_score_far_better_than_noise(digits: DataSet, digits_features: FeatureNet) -> None:
    judge = Judge(digits_features, digits.train, CONFIG)
    real = held_out_row(judge, digits).scores
    noise = judge.score(torch.randn(90, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(90))
    assert real.fid < 0.1 < 10 * real.fid < noise.fid
    assert real.kid < noise.kid
    assert real.precision > 0.8 and noise.precision < 0.1
    assert real.agreement is not None and real.agreement > 0.95


def test_agreement_is_the_share_that_looks_like_its_class(judge: Judge, toy: DataSet) -> None:
    asked = toy.held_out.condition.clone()
    asked[: len(asked) // 4] = (asked[: len(asked) // 4] + 1) % 4
    assert judge.score(toy.held_out.x, asked).agreement == pytest.approx(0.75)


def test_only_compares_with_the_named_classes(judge: Judge, toy: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = toy.held_out.only([1, 2])
    assert judge.only([1, 2]).fid(mine.x) < 1e-3 < judge.fid(mine.x)
    monkeypatch.setattr(type(judge._net), "features", pytest.fail)
    judge.only([3])  # computes no features again


def test_class_means_are_in_class_order(judge: Judge) -> None:
    assert judge.class_means(4) == pytest.approx(np.array([[0.5, 0], [0, 0.5], [-0.5, 0], [0, -0.5]]), abs=0.03)
    with pytest.raises(ValueError, match="class 4"):
        judge.class_means(5)


def test_undefined_scores_are_nan_and_not_an_error(judge: Judge, toy: DataSet) -> None:
    few = judge.score(toy.held_out.x[:3], toy.held_out.condition[:3])
    diverged = judge.score(torch.full((50, 2), math.nan), torch.zeros(50))
    assert few.n == 3 and math.isnan(few.fid) and math.isnan(diverged.fid) and math.isnan(diverged.recall)
    assert math.isnan(judge.fid(toy.held_out.x[:1]))


def test_a_sampler_is_asked_for_balanced_classes_and_every_seed_once(judge: Judge, toy: DataSet) -> None:
    calls: list[tuple[Tensor, list[int]]] = []

    def sample(conditions: Tensor, seeds: list[int]) -> Tensor:
        calls.append((conditions, seeds))
        return torch.stack([toy.held_out.only([int(c)]).x[s % 20] for c, s in zip(conditions, seeds, strict=True)])

    row, samples = sampler_row("students", judge, sample, [0, 1, 2, 3], Costs(parameters=12, nfe=1))
    warm_up, *timed = calls
    assert len(warm_up[1]) == 8
    assert [seed for _, seeds in timed for seed in seeds] == list(range(90))
    assert torch.equal(samples.condition, torch.arange(90) % 4)
    assert torch.equal(samples.condition, torch.cat([conditions for conditions, _ in timed]))
    assert (row.name, row.parameters, row.nfe, row.scores.n, row.scores.agreement) == ("students", 12, 1, 90, 1)
    assert row.ms_per_image is not None and row.ms_per_image > 0


def test_students_are_judged_on_their_own_classes(judge: Judge, toy: DataSet) -> None:
    rows = student_rows(judge, toy.held_out, [1, 0, 1, 0], toy.labels, {1: Costs(parameters=7)})
    assert [row.name for row in rows] == ["student 0 (classes ring 1, ring 3)", "student 1 (classes ring 0, ring 2)"]
    assert [row.parameters for row in rows] == [None, 7]
    assert [row.scores.n for row in rows] == [100, 100]
    assert all(row.scores.fid < 0.01 for row in rows)


def test_a_student_of_many_classes_has_a_short_name(judge: Judge, toy: DataSet) -> None:
    labels = [str(i) for i in range(100)]
    (row,) = student_rows(judge, toy.held_out, [0] * 100, labels)
    assert row.name == "student 0 (100 classes: 0, 1, 2, 3, 4, 5, ...)"
