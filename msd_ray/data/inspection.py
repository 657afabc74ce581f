"""What a data set holds, from one pass over it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from msd_ray.data.source import CHUNK, DataSet, Split, as_seen


@dataclass(frozen=True)
class Inspection:
    """counts, held_out: samples of each class, by its label; broken images are not counted. mean, std: of each channel,
    or coordinate, of the training samples as networks see them. total_mean, total_std: of all of them together. broken:
    training images that were skipped, and what is wrong with each."""

    shape: tuple[int, ...]
    counts: dict[str, int]
    held_out: dict[str, int]
    mean: list[float]
    std: list[float]
    total_mean: float
    total_std: float
    broken: list[str]
    fingerprint: str

    @property
    def sigma_data(self) -> float:
        """What the recipe's noise.sigma_data should be about."""
        return round(self.total_std, 2)


def inspect(data: DataSet, seen: Callable[[int], None]) -> Inspection:
    """seen: told after each piece how many samples it had. Raises UserError where a class has only broken images."""
    n, sums, squares = 0, torch.zeros(data.shape[0]).double(), torch.zeros(data.shape[0]).double()
    for raw, classes in whole(data.train):
        x = as_seen(raw).double().flatten(2) if len(data.shape) == 3 else raw.double()[:, :, None]
        n, sums, squares = n + len(x) * x.shape[2], sums + x.sum((0, 2)), squares + (x**2).sum((0, 2))
        seen(len(classes))
    mean, second = sums / n, squares / n
    return Inspection(
        data.shape,
        _counted(data.train, data.labels),
        _counted(data.held_out, data.labels),
        mean.tolist(),
        (second - mean**2).sqrt().tolist(),
        float(mean.mean()),
        float((second.mean() - mean.mean() ** 2).sqrt()),
        [data.train.broken[index] for index in sorted(data.train.broken)],
        data.fingerprint,
    )


def whole(split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """Stored samples [B, ...] that are not broken, and their classes [B], in the order of their indices."""
    own = torch.arange(len(split.condition)) if split.own is None else split.own
    for indices in torch.split(own, CHUNK):
        raw = split.rows.take(indices.numpy())
        good = torch.tensor([index not in split.broken for index in indices.tolist()])
        yield raw[good], split.condition[indices[good]]


def _counted(split: Split, labels: tuple[str, ...]) -> dict[str, int]:
    counts = split.classes.bincount(minlength=len(labels))
    for index in split.broken:
        counts[split.condition[index]] -= 1
    return dict(zip(labels, counts.tolist(), strict=True))


def some_of_each(split: Split, classes: int, n: int) -> Tensor:
    """The first n samples of each of the first classes as networks see them, [classes, n, ...]; of one that has fewer,
    some twice."""
    of_each = [torch.nonzero(split.classes == number).flatten() for number in range(classes)]
    return torch.stack([split.take(own[torch.arange(n) % len(own)]).x for own in of_each])
