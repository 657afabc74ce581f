"""Distances between two sets of features [N, d]."""

import io
import logging
import warnings
from contextlib import redirect_stdout

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msd_ray.evaluation.clean_fid import clean_fid

Features = NDArray[np.float64]

RIDGE = 1e-6
"""Added to the diagonal of both covariances where their product has no real square root; clean-fid's own value."""

ROWS_AT_A_TIME = 4096
KID_SEED = 0

log = logging.getLogger(__name__)


def frechet(a: Features, b: Features) -> float:
    """Squared Frechet distance between Gaussians fitted to a [N, d] and b [M, d]: FID, arXiv 1706.08500 equation 6.

    Raises ValueError with fewer than 2 rows, or where the features are not finite.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError("the Frechet distance needs at least 2 samples on each side")
    if a.shape[1] == 1:  # scipy has no square root of 1 x 1 for clean-fid; a constant coordinate changes nothing
        a, b = (np.pad(x, ((0, 0), (0, 1))) for x in (a, b))
    moments = a.mean(0), _covariance(a), b.mean(0), _covariance(b)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()) as said:
        warnings.simplefilter("ignore")  # of scipy: how clean-fid calls it, and that a covariance is singular
        try:
            distance = float(clean_fid().frechet_distance(*moments))
        except ValueError:
            # fewer samples than dimensions: rounding turned zero eigenvalues into negative ones
            ridge = RIDGE * np.eye(a.shape[1])
            distance = float(
                clean_fid().frechet_distance(moments[0], moments[1] + ridge, moments[2], moments[3] + ridge)
            )
    if said.getvalue():
        log.info("clean-fid: %s", said.getvalue().strip())
    return max(distance, 0.0)


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


def precision_recall(real: Features, fake: Features, neighbours: int) -> tuple[float, float]:
    """Improved precision and recall in 0..1, arXiv 1904.06991 equations 1-3, with k = neighbours.

    Precision: the share of fakes within a real sample's distance to its k-th neighbour. Recall: the same with real and
    fake exchanged. Raises ValueError unless both sides have more than k rows.
    """
    if min(len(real), len(fake)) <= neighbours:
        raise ValueError(f"precision and recall with {neighbours} neighbours need more samples than that")
    r, f = torch.from_numpy(real), torch.from_numpy(fake)
    return _share_inside(f, r, neighbours), _share_inside(r, f, neighbours)


def _covariance(x: Features) -> Features:
    return np.atleast_2d(np.cov(x, rowvar=False))


def _share_inside(points: Tensor, manifold: Tensor, k: int) -> float:
    radius = torch.cat([_radius(rows, manifold, k) for rows in torch.split(manifold, ROWS_AT_A_TIME)])
    inside = [(torch.cdist(rows, manifold) <= radius).any(1) for rows in torch.split(points, ROWS_AT_A_TIME)]
    return float(torch.cat(inside).double().mean())


def _radius(rows: Tensor, manifold: Tensor, k: int) -> Tensor:
    """Each row's distance to its k-th neighbour; k + 1, because every point is its own nearest."""
    return torch.cdist(rows, manifold).kthvalue(k + 1).values
