import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from msd_ray.data import DataSet, Samples
from msd_ray.evaluation import (
    Costs,
    EvaluationConfig,
    FeatureNet,
    Judge,
    load_features,
    sampler_row,
    scored,
    statistics_of,
    with_ratio,
)
from msd_ray.evaluation.feature_distances import retrieved
from msd_ray.storage import Store
from msd_ray.validation import in_range

CONFIG = EvaluationConfig(samples=90, curve_samples=20, batch=32, kid_subsets=5)


@pytest.fixture
def judge(toy: DataSet, tmp_path: Path) -> Judge:
    return Judge(load_features("auto", toy, Store(str(tmp_path))), toy.train, CONFIG)


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": 3},
        {"batch": 0},
        {"curve_samples": 1},
        {"neighbours": 0},
        {"kid_subsets": 0},
        {"cpus": -1.0},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|should be"):
        in_range(replace(EvaluationConfig(), **wrong))


def test_the_reference_scores_perfectly_against_itself(judge: Judge, toy: DataSet) -> None:
    scores = judge.score(toy.train.all().x, toy.train.classes)
    assert scores.n == len(toy.train)
    assert scores.fid == judge.fid(toy.train.all().x) == pytest.approx(0, abs=1e-9)
    assert (scores.precision, scores.recall, scores.agreement) == (1, 1, 1)


def test_real_digits_score_far_better_than_noise(digits: DataSet, digits_features: FeatureNet) -> None:
    judge = Judge(digits_features, digits.train, CONFIG)
    real = judge.score(digits.held_out.all().x, digits.held_out.classes)
    noise = judge.score(torch.randn(90, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(90))
    assert real.fid < 0.1 < 10 * real.fid < noise.fid
    assert real.kid < noise.kid
    assert real.precision > 0.8 and noise.precision < 0.1
    assert real.agreement is not None and real.agreement > 0.95


def test_agreement_is_the_share_that_looks_like_its_class(judge: Judge, toy: DataSet) -> None:
    asked = toy.held_out.classes.clone()
    asked[: len(asked) // 4] = (asked[: len(asked) // 4] + 1) % 4
    assert judge.score(toy.held_out.all().x, asked).agreement == pytest.approx(0.75)


def test_class_means_are_in_class_order(judge: Judge) -> None:
    assert judge.class_means(4) == pytest.approx(np.array([[0.5, 0], [0, 0.5], [-0.5, 0], [0, -0.5]]), abs=0.03)
    with pytest.raises(ValueError, match="class 4"):
        judge.class_means(5)


def test_undefined_scores_are_nan_and_say_why(judge: Judge, toy: DataSet) -> None:
    few = judge.score(toy.held_out.all().x[:3], toy.held_out.classes[:3])
    assert few.n == 3 and math.isfinite(few.fid) and math.isnan(few.precision) and math.isnan(few.recall)
    assert few.missing == "precision and recall with 3 neighbours need 4 samples on each side, here 3"
    one = judge.score(toy.held_out.all().x[:1], toy.held_out.classes[:1])
    assert math.isnan(one.fid) and math.isnan(one.kid)
    assert one.missing.startswith("FID and KID need 2 samples on each side, here 1; precision and recall")
    diverged = judge.score(torch.full((50, 2), math.nan), torch.zeros(50))
    assert math.isnan(diverged.fid) and math.isnan(diverged.recall)
    assert diverged.missing == "samples that are not finite"
    assert math.isnan(judge.fid(toy.held_out.all().x[:1]))


def test_the_ratio_to_real_samples_is_of_equally_many(judge: Judge, toy: DataSet, tmp_path: Path) -> None:
    net = load_features("auto", toy, Store(str(tmp_path)))
    real, held_out = statistics_of(net, toy.train.all()), statistics_of(net, toy.held_out.all())
    perfect = with_ratio(scored(held_out, real, CONFIG), held_out, held_out, real)
    assert (perfect.fid_ratio, perfect.fid_ratio_n) == (1, 200)
    shifted = statistics_of(net, Samples(toy.held_out.all().x + 0.1, toy.held_out.classes))
    scores = scored(shifted, real, CONFIG)
    assert with_ratio(scores, shifted, held_out, real).fid_ratio == pytest.approx(scores.fid / perfect.fid, rel=1e-9)
    few = statistics_of(net, Samples(toy.held_out.all().x[:50], toy.held_out.classes[:50]))
    assert with_ratio(scored(few, real, CONFIG), few, held_out, real).fid_ratio_n == 50
    # One that only has more samples is no better for it: every real one four times.
    again = np.tile(np.arange(len(toy.held_out)), 4)
    many = statistics_of(net, Samples(toy.held_out.all().x[again], toy.held_out.classes[again]))
    fair = with_ratio(scored(many, real, CONFIG), many, held_out, real)
    assert fair.fid_ratio_n == 200
    assert 0.3 < fair.fid_ratio < 3


def test_a_ratio_that_cannot_be_had_says_why(judge: Judge, toy: DataSet, tmp_path: Path) -> None:
    net = load_features("auto", toy, Store(str(tmp_path)))
    real = statistics_of(net, toy.train.all())
    scores = with_ratio(scored(real, real, CONFIG), real, None, real)
    assert math.isnan(scores.fid_ratio)
    assert scores.missing == "no ratio to real held-out samples: there are 0"


def test_a_sampler_is_asked_for_balanced_classes_and_every_seed_once(judge: Judge, toy: DataSet) -> None:
    calls: list[tuple[Tensor, list[int]]] = []

    def sample(conditions: Tensor, seeds: list[int]) -> Tensor:
        calls.append((conditions, seeds))
        return torch.stack([toy.held_out.only(c[None]).all().x[s % 20] for c, s in zip(conditions, seeds, strict=True)])

    row, samples = sampler_row("students", judge, sample, torch.arange(4), Costs(parameters=12, nfe=1))
    warm_up, *timed = calls
    assert len(warm_up[1]) == 8
    assert [seed for _, seeds in timed for seed in seeds] == list(range(90))
    assert torch.equal(samples.condition, torch.arange(90) % 4)
    assert torch.equal(samples.condition, torch.cat([conditions for conditions, _ in timed]))
    assert (row.name, row.parameters, row.nfe, row.scores.n, row.scores.agreement) == ("students", 12, 1, 90, 1)
    assert row.ms_per_image is not None and row.ms_per_image > 0


def test_retrieval_is_the_share_whose_nearest_real_sample_is_of_the_condition_asked_for(
    judge: Judge, toy: DataSet, tmp_path: Path
) -> None:
    x, condition = toy.train.all().x, toy.train.classes
    asked = Judge(load_features("auto", toy, Store(str(tmp_path))), toy.train, replace(CONFIG, retrieval=True))
    assert asked.score(x, condition).retrieval == 1 and judge.score(x, condition).retrieval is None
    wrong = condition.clone()
    wrong[:30] = (wrong[:30] + 1) % len(toy.labels)
    assert asked.score(x, wrong).retrieval == pytest.approx(1 - 30 / len(x))
    assert asked.score(x * math.nan, condition).retrieval is None


def test_retrieval_takes_the_nearest_of_all_real_samples() -> None:
    real, fake = np.array([[0.0], [1.0], [5.0]]), np.array([[0.4], [0.6], [9.0], [2.9]])
    assert retrieved(real, np.array([7, 8, 9]), fake, np.array([7, 7, 9, 8])) == 0.75
    with pytest.raises(ValueError, match="samples on each side"):
        retrieved(real[:0], np.array([]), fake, np.zeros(4))
