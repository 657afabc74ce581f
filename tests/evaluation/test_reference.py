"""Reference statistics: EDM's npz, read without trust and written."""

import io
from pathlib import Path

import numpy as np
import pytest

from msd_ray.errors import UserError
from msd_ray.evaluation.feature_distances import Moments, frechet
from msd_ray.evaluation.reference import read_reference, write_reference
from msd_ray.storage import Store

X = np.random.default_rng(0).normal(size=(50, 4))
MU, SIGMA = X.mean(0), np.cov(X, rowvar=False)


def test_what_is_written_is_what_edm_reads_and_what_is_read_gives_the_same_distance(tmp_path: Path) -> None:
    write_reference(Store(str(tmp_path)), "ref.npz", Moments.of(X))
    with np.load(tmp_path / "ref.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["mu", "sigma"]
        assert np.allclose(arrays["mu"], MU) and np.allclose(arrays["sigma"], SIGMA)
    again, other = read_reference(str(tmp_path / "ref.npz"), 4), Moments.of(X + 1)
    assert frechet(other, again) == pytest.approx(frechet(other, Moments.of(X)), rel=1e-9)


def npz(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


TRIANGLE, MINUS = np.triu(np.ones((4, 4))), -np.eye(4)
PICKLED = np.array([{"a": 1}], dtype=object)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>404</html>", "cannot be read as an npz file"),
        (npz(mu=MU, sigma=SIGMA)[:300], "cannot be read as an npz file"),
        (npz(mu=MU), "has no sigma"),
        (npz(mean=MU, sigma=SIGMA), "has no mu"),
        (npz(mu=PICKLED, sigma=SIGMA), "cannot be read as an npz file: .*allow_pickle=False"),
        (npz(mu=MU, sigma=SIGMA[:3]), r"not \[4\] and \[3, 4\]"),
        (npz(mu=MU[None], sigma=SIGMA), r"not \[1, 4\]"),
        (npz(mu=MU[:3], sigma=SIGMA[:3, :3]), "of 3 features, but those of evaluation.features are 4"),
        (npz(mu=MU * np.nan, sigma=SIGMA), "not a finite number"),
        (npz(mu=MU, sigma=TRIANGLE), "must be symmetric"),
        (npz(mu=MU, sigma=MINUS), "negative variances"),
        (npz(mu=MU.astype(int), sigma=SIGMA), "must be floats"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "ref.npz").write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        read_reference(str(tmp_path / "ref.npz"), 4)
    assert len(str(refused.value).splitlines()) == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"evaluation\.reference: there is no .*none\.npz"):
        read_reference(str(tmp_path / "none.npz"), 4)
