"""Distances between two sets of features [N, d]."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from msd_ray.evaluation.clean_fid import clean_fid

Features = NDArray[np.float64]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Moments:
    """n: rows seen. mean: [d]. scatter: [d, d], the sum of (x - mean)(x - mean)^T over them.

    Sums are rounded, so the last bits of a total depend on the order in which pieces are added: whoever wants equal
    figures adds equal pieces in the same order.
    """

    n: int
    mean: Features
    scatter: Features

    @staticmethod
    def of(x: Features) -> "Moments":
        """Of the rows of x [N, d], at least one."""
        mean = x.mean(0)
        return Moments(len(x), mean, (x - mean).T @ (x - mean))

    def __add__(self, other: "Moments") -> "Moments":
        """Of the rows of both (Chan, Golub and LeVeque 1983), without the cancellation of sums of squares."""
        n, gap = self.n + other.n, other.mean - self.mean
        mean = self.mean + gap * (other.n / n)
        return Moments(n, mean, self.scatter + other.scatter + np.outer(gap, gap) * (self.n * other.n / n))

    @property
    def covariance(self) -> Features:
        """[d, d], unbiased; needs two rows."""
        return self.scatter / (self.n - 1)


ROWS_AT_A_TIME = 4096
KID_SEED = 0


def frechet(a: Moments, b: Moments) -> float:
    """Squared Frechet distance between the Gaussians with these moments: FID, arXiv 1706.08500 equation 6.

    The trace of (S1 S2)^(1/2) is the sum of the square roots of the eigenvalues of S1^(1/2) S2 S1^(1/2), which is
    symmetric: no matrix square root is taken of what has none, and covariances may be singular. Raises ValueError with
    fewer than 2 rows on a side, or where the features are not finite.
    """
    if min(a.n, b.n) < 2:
        raise ValueError("the Frechet distance needs at least 2 samples on each side")
    s1, s2, gap = a.covariance, b.covariance, a.mean - b.mean
    if not (np.isfinite(s1).all() and np.isfinite(s2).all()):
        raise ValueError("the Frechet distance needs finite features")
    root = _root(s1)
    mixed = np.sqrt(np.linalg.eigvalsh(root @ s2 @ root).clip(0)).sum()
    return max(float(gap @ gap + np.trace(s1) + np.trace(s2) - 2 * mixed), 0.0)


def kernel(a: Features, b: Features, subsets: int, subset_size: int) -> float:
    """KID, arXiv 1801.01401: unbiased squared MMD with the kernel (x.y / d + 1)^3, the mean over random subsets.

    Near 0, of either sign, for equal distributions. The same inputs give the same value. Raises ValueError with fewer
    than 2 rows.
    """
    if min(len(a), len(b), subset_size) < 2:
        raise ValueError("the kernel distance needs at least 2 samples on each side")
    state = np.random.get_state()
    np.random.seed(KID_SEED)  # clean-fid draws its subsets from numpy's global state
    try:
        return float(clean_fid().kernel_distance(a, b, num_subsets=subsets, max_subset_size=subset_size))
    finally:
        np.random.set_state(state)


def precision_recall(
    real: Features, fake: Features, neighbours: int, radii: Features | None = None
) -> tuple[float, float]:
    """Improved precision and recall in 0..1, arXiv 1904.06991 equations 1-3, with k = neighbours.

    Precision: the share of fakes within a real sample's distance to its k-th neighbour. Recall: the same with real and
    fake exchanged. radii: `neighbour_radii` of the real ones, where they are known. Raises ValueError unless both sides
    have more than k rows.
    """
    known = neighbour_radii(real, neighbours) if radii is None else radii
    return _share_inside(fake, real, known), _share_inside(real, fake, neighbour_radii(fake, neighbours))


def neighbour_radii(x: Features, neighbours: int) -> Features:
    """[N]: each row's distance to its k-th neighbour. Raises ValueError unless there are more than k rows."""
    if len(x) <= neighbours:
        raise ValueError(f"precision and recall with {neighbours} neighbours need more samples than that")
    points = torch.from_numpy(x)
    # k + 1, because every point is its own nearest
    radii = [torch.cdist(rows, points).kthvalue(neighbours + 1).values for rows in torch.split(points, ROWS_AT_A_TIME)]
    found: Features = torch.cat(radii).numpy()
    return found


def retrieved(real: Features, ids: Numbers, fake: Features, wanted: Numbers) -> float:
    """The share of the rows of fake [M, d] whose nearest row of real [N, d] has the id that they were asked for.

    ids [N], wanted [M]: the conditions of both. Raises ValueError where a side has no rows.
    """
    if not (len(real) and len(fake)):
        raise ValueError("retrieval needs samples on each side")
    points = torch.from_numpy(real)
    nearest = [torch.cdist(rows, points).argmin(1) for rows in torch.split(torch.from_numpy(fake), ROWS_AT_A_TIME)]
    return float((ids[torch.cat(nearest).numpy()] == wanted).mean())


def _root(covariance: Features) -> Features:
    """The symmetric square root; eigenvalues that rounding made negative count as zero."""
    values, vectors = np.linalg.eigh(covariance)
    root: Features = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return root


def _share_inside(points: Features, manifold: Features, radii: Features) -> float:
    p, m, r = (torch.from_numpy(x) for x in (points, manifold, radii))
    inside = [(torch.cdist(rows, m) <= r).any(1) for rows in torch.split(p, ROWS_AT_A_TIME)]
    return float(torch.cat(inside).double().mean())
