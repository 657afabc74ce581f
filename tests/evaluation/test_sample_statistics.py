from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from msd_ray.data import DataSet, Samples
from msd_ray.evaluation import SampleStatistics, gathered, load_features, statistics_of
from msd_ray.evaluation.sample_statistics import from_state, interleaved, to_state
from msd_ray.storage import Store


def pieces_of(toy: DataSet, cache: Path, ends: list[int]) -> list[SampleStatistics]:
    net, x = load_features("auto", toy, Store(str(cache))), toy.train.all()
    rows = np.split(np.arange(len(x)), ends)
    return [statistics_of(net, Samples(x.x[some], x.condition[some]), some) for some in rows]


def test_pieces_add_up_to_the_whole_in_whatever_order_they_hold_samples(toy: DataSet, tmp_path: Path) -> None:
    net = load_features("auto", toy, Store(str(tmp_path)))
    first, second, third = pieces_of(toy, tmp_path, [100, 350])
    together, at_once = gathered([third, first, second]), statistics_of(net, toy.train.all())
    assert (together.n, together.right) == (at_once.n, at_once.right)
    assert np.array_equal(together.numbers, at_once.numbers)
    assert np.array_equal(together.features, at_once.features)
    assert together.moments.covariance == pytest.approx(at_once.moments.covariance, rel=1e-12)


def test_what_was_measured_comes_back_bit_for_bit(toy: DataSet, tmp_path: Path) -> None:
    piece = pieces_of(toy, tmp_path, [100])[0]
    again, other = from_state(to_state([piece, replace(piece, right=None, features=-piece.features)]))
    assert np.array_equal(again.moments.scatter, piece.moments.scatter)
    assert np.array_equal(again.features, piece.features)
    assert (again.n, again.right, again.seconds, again.radii) == (piece.n, piece.right, piece.seconds, None)
    assert (other.n, other.right) == (piece.n, None) and np.array_equal(other.features, -piece.features)


def test_moments_are_of_all_samples_and_features_of_those_that_are_kept(toy: DataSet, tmp_path: Path) -> None:
    net, x = load_features("auto", toy, Store(str(tmp_path))), toy.train.all()
    some = statistics_of(net, x, keep=np.arange(len(x)) < 100)
    assert some.n == len(x) and some.features.shape == (100, 2)
    assert np.array_equal(some.moments.scatter, statistics_of(net, x).moments.scatter)


def test_each_stretch_of_interleaved_samples_has_its_share_of_every_class() -> None:
    condition = np.array([0] * 60 + [1] * 30 + [2] * 10)
    order = interleaved(condition)
    assert sorted(order) == list(range(100))
    for begin in range(0, 100, 20):
        counts = np.bincount(condition[order[begin : begin + 20]], minlength=3)
        assert np.abs(counts - [12, 6, 2]).max() <= 1
