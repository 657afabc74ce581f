"""k-means with clusters of equal size."""

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Labels = NDArray[np.int64]

RESTARTS, ITERATIONS = 10, 100


def balanced_kmeans(points: Points, k: int, seed: int) -> Labels:
    """Clusters `points` [N, d] into k clusters whose sizes differ by at most one: [N] cluster indices.

    Lloyd's iterations, each point's cluster chosen so that the sum of squared distances is least among all balanced
    assignments; the best of several k-means++ starts.
    """
    from sklearn.cluster import kmeans_plusplus  # here, because it is slow to import and rarely needed

    rng = np.random.RandomState(seed % 2**32)
    best, best_inertia = np.zeros(len(points), dtype=np.int64), np.inf
    for _ in range(RESTARTS):
        centres, _ = kmeans_plusplus(points, k, random_state=rng)
        labels = _lloyd(points, centres)
        inertia = float(((points - _means(points, labels, k)[labels]) ** 2).sum())
        if inertia < best_inertia:
            best, best_inertia = labels, inertia
    return best


def _lloyd(points: Points, centres: Points) -> Labels:
    labels = _assigned(points, centres)
    for _ in range(ITERATIONS):
        previous, labels = labels, _assigned(points, _means(points, labels, len(centres)))
        if np.array_equal(previous, labels):
            break
    return labels


def _means(points: Points, labels: Labels, k: int) -> Points:
    return np.stack([points[labels == cluster].mean(axis=0) for cluster in range(k)])


def _assigned(points: Points, centres: Points) -> Labels:
    """The cheapest balanced assignment, as a linear assignment problem over seats.

    Each cluster has N // k seats that must be taken, and one more if k does not divide N. That leaves some of the
    extra seats empty: phantom points take them, at no cost, and may sit nowhere else.
    """
    from scipy.optimize import linear_sum_assignment

    n, k = len(points), len(centres)
    distances = ((points[:, None] - centres[None]) ** 2).sum(axis=2)
    seats = np.repeat(np.arange(k), n // k)
    extra = np.arange(k) if n % k else np.arange(0)
    cost = distances[:, np.concatenate([seats, extra])]
    phantoms = np.full((cost.shape[1] - n, cost.shape[1]), np.inf)
    phantoms[:, len(seats) :] = 0
    _, chosen = linear_sum_assignment(np.vstack([cost, phantoms]))
    labels: Labels = np.concatenate([seats, extra])[chosen[:n]]
    return labels
