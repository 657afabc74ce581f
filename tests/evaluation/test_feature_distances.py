import inspect
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from msd_ray.evaluation.clean_fid import clean_fid
from msd_ray.evaluation.feature_distances import Features, Moments, frechet, kernel, precision_recall


def whitened(n: int, d: int, seed: int) -> Features:
    """Samples whose mean is exactly 0 and whose covariance is exactly the identity."""
    x = np.random.default_rng(seed).normal(size=(n, d))
    x -= x.mean(0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T


def fid(a: Features, b: Features) -> float:
    return frechet(Moments.of(a), Moments.of(b))


def test_frechet_is_the_closed_form_of_gaussians() -> None:
    mean = np.array([1.0, -2.0, 0.5])
    std_a, std_b = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 0.5])
    a, b = whitened(50, 3, 0) * std_a, whitened(70, 3, 1) * std_b + mean
    assert fid(a, b) == pytest.approx((mean**2).sum() + ((std_a - std_b) ** 2).sum(), rel=1e-9)


DISP = "disp" in inspect.signature(scipy.linalg.sqrtm).parameters


@pytest.mark.skipif(not DISP, reason="clean-fid's own distance needs a SciPy whose sqrtm has `disp`, before 1.18")
@pytest.mark.parametrize(("n", "d"), [(500, 2), (500, 3), (1000, 64), (3000, 200), (1500, 512)])
def test_frechet_equals_clean_fid(n: int, d: int) -> None:
    rng = np.random.default_rng(d)
    mix = rng.normal(size=(d, d)) / np.sqrt(d)
    a, b = rng.normal(size=(n, d)) @ mix, 1.1 * rng.normal(size=(n + 50, d)) @ mix + 0.05
    assert fid(a, b) == pytest.approx(cleanly(a, b), rel=1e-6)


@pytest.mark.skipif(not DISP, reason="clean-fid's own distance needs a SciPy whose sqrtm has `disp`, before 1.18")
@pytest.mark.parametrize(("n", "rank", "d"), [(300, 3, 8), (300, 20, 64)])
def test_frechet_equals_clean_fid_where_features_span_less_than_their_dimensions(n: int, rank: int, d: int) -> None:
    rng = np.random.default_rng(d)
    mix = rng.normal(size=(rank, d))
    a, b = rng.normal(size=(n, rank)) @ mix, 1.5 * rng.normal(size=(n, rank)) @ mix + 0.3
    assert fid(a, b) == pytest.approx(cleanly(a, b), rel=1e-6)


def cleanly(a: Features, b: Features) -> float:
    """By clean-fid, which takes the square root of the covariances' product as a matrix."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        moments = a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False)
        return float(clean_fid().frechet_distance(*moments))


def test_frechet_bears_fewer_samples_than_dimensions_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(0).normal(size=(5, 20))
    assert fid(x, x) == pytest.approx(0, abs=1e-6)
    assert fid(np.zeros((5, 20)), np.ones((5, 20))) == pytest.approx(20)
    a, b = np.random.default_rng(1).normal(size=(2, 5, 20))
    a, b = a - a.mean(0), b - b.mean(0)
    # With A and B for the centred rows over 2, the trace of (A'A B'B)^(1/2) is the sum of the singular values of A B'.
    mixed = np.linalg.svd(a @ b.T / 4, compute_uv=False).sum()
    assert fid(a, b) == pytest.approx((a**2).sum() / 4 + (b**2).sum() / 4 - 2 * mixed, rel=1e-6)
    assert capsys.readouterr() == ("", "")


def test_frechet_of_numbers_of_too_few_and_of_none() -> None:
    assert fid(np.array([[0.0], [2.0]]), np.array([[3.0], [5.0]])) == pytest.approx(9)
    with pytest.raises(ValueError, match="at least 2"):
        fid(np.zeros((1, 3)), np.zeros((9, 3)))
    with pytest.raises(ValueError, match="finite"):
        fid(np.full((5, 3), np.nan), np.zeros((9, 3)))


def test_moments_of_pieces_are_those_of_the_whole() -> None:
    x = np.random.default_rng(0).normal(size=(100, 6)) + 1e3
    first, second, third = (Moments.of(part) for part in np.split(x, [1, 40]))
    total = first + second + third
    assert total.n == 100
    assert total.mean == pytest.approx(x.mean(0), rel=1e-14)
    assert total.covariance == pytest.approx(np.cov(x, rowvar=False), rel=1e-9)


def test_kernel_distance_tells_a_shift_from_none() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(400, 4)), rng.normal(size=(400, 4))
    assert abs(kernel(a, b, 20, 200)) < 0.05
    assert kernel(a, b + 0.5, 20, 200) > 0.1
    assert kernel(a, b + 1.0, 20, 200) > kernel(a, b + 0.5, 20, 200)


def test_kernel_distance_repeats_and_leaves_numpys_random_state() -> None:
    a, b = whitened(60, 4, 0), whitened(60, 4, 1)
    np.random.seed(5)
    expected = np.random.random()
    first = kernel(a, b, 5, 30)
    np.random.seed(5)
    assert kernel(a, b, 5, 30) == first
    assert np.random.random() == expected


def test_precision_and_recall_of_equal_sets() -> None:
    x = whitened(100, 5, 0)
    assert precision_recall(x, x.copy(), 3) == (1.0, 1.0)


def test_fakes_on_one_of_two_modes_are_precise_but_recall_half() -> None:
    x = whitened(40, 2, 0)
    real = np.concatenate([x, x + 100])
    assert precision_recall(real, x, 3) == (1.0, 0.5)
    assert precision_recall(x, real, 3) == (0.5, 1.0)
    assert precision_recall(x, x + 100, 3) == (0.0, 0.0)


def test_the_radius_is_the_distance_to_the_kth_other_point() -> None:
    real = np.array([[0.0], [1.0], [3.0]])
    fake = np.array([[-0.9], [-1.1], [4.9], [5.1]])
    # first neighbours of 0, 1 and 3 are 1, 1 and 2 away: -1.1 and 5.1 are outside
    assert precision_recall(real, fake, 1)[0] == 0.5
    with pytest.raises(ValueError, match="neighbours"):
        precision_recall(real, fake, 3)


def test_clean_fid_leaves_no_stand_in_for_torchvision() -> None:
    clean_fid.cache_clear()
    for name in [name for name in sys.modules if name.startswith("cleanfid")]:
        del sys.modules[name]
    before = {name for name in sys.modules if name.split(".")[0] == "torchvision"}
    clean_fid()
    assert {name for name in sys.modules if name.split(".")[0] == "torchvision"} == before


def test_a_broken_torchvision_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "import torchvision.half\nraise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    (tmp_path / "torchvision" / "half.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    saved = {
        name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in ("torchvision", "cleanfid")
    }
    clean_fid.cache_clear()
    try:
        assert callable(clean_fid().frechet_distance)
        assert not [name for name in sys.modules if name.split(".")[0] == "torchvision"]
    finally:
        clean_fid.cache_clear()
        sys.modules.update(saved)
