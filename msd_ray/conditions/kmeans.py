"""k-means with clusters of like size."""

import numpy as np
from numpy.typing import NDArray

from msd_ray.errors import UserError

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


ROUNDS = 30


def balanced_centres(points: NDArray[np.float32], k: int, seed: int) -> tuple[NDArray[np.float32], tuple[float, ...]]:
    """Centres [k, d] and a price of each, so that about as many of the points [N, d] are nearest to each, where price
    and squared distance are added. Raises UserError for more centres than points.

    Lloyd's iterations from one k-means++ start. Unlike `balanced_kmeans` it says where a new point belongs, and takes
    time and memory in proportion to N.
    """
    from sklearn.cluster import kmeans_plusplus

    if k > len(points):
        raise UserError(f"{k} students cannot share {len(points)} prompts: set partition.k to at most {len(points)}")
    centres, _ = kmeans_plusplus(points, k, random_state=np.random.RandomState(seed % 2**32))
    labels, prices = np.zeros(len(points), dtype=np.int64), np.zeros(k)
    for _ in range(ITERATIONS):
        distances = _squared_distances(points, centres)
        prices = _prices(distances, prices)
        previous, labels = labels, (distances + prices[:, None]).argmin(axis=0)
        if np.array_equal(previous, labels):
            break
        found = [points[labels == cluster] for cluster in range(k)]
        centres = np.stack([f.mean(axis=0) if len(f) else old for f, old in zip(found, centres, strict=True)])
    return centres.astype(np.float32), tuple(prices.tolist())


def _squared_distances(points: NDArray[np.float32], centres: NDArray[np.float32]) -> Points:
    """[k, N]."""
    squares: Points = (centres**2).sum(axis=1, dtype=np.float64)[:, None] + (points**2).sum(axis=1, dtype=np.float64)
    squares -= 2 * (centres @ points.T)
    return squares


def _prices(distances: Points, prices: Points) -> Points:
    """Of each cluster in turn the price at which it gets its share of the points, given the prices of the others.
    prices: to begin with."""
    k, n = distances.shape
    prices, middle = prices.copy(), [n - n // k - 1, n - n // k]
    for _ in range(ROUNDS if k > 1 else 0):
        before = prices.copy()
        for cluster in range(k):
            others = np.delete(distances + prices[:, None], cluster, axis=0).min(axis=0)
            prices[cluster] = np.partition(others - distances[cluster], middle)[middle].mean()
        if np.allclose(prices, before, rtol=0, atol=1e-6):
            break
    prices -= prices.min()
    return prices
