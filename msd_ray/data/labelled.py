"""A data set of images and the number of each one's class, with the checks that all formats share."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from msd_ray.data.source import DataSet, Rows, Split
from msd_ray.errors import UserError

LOOKED_AT = 64
"""Images that a fingerprint reads."""


@dataclass(frozen=True)
class Labelled:
    """Images, and the class of each. classes: [N]. where: what is named in messages about the classes."""

    rows: Rows
    classes: NDArray[np.int64]
    where: str

    def __post_init__(self) -> None:
        if len(self.classes) != len(self.rows) or not len(self.classes):
            raise UserError(f"{self.where} has {len(self.classes)} labels for {len(self.rows)} images")

    @property
    def split(self) -> Split:
        return Split(self.rows, torch.from_numpy(self.classes))


def data_set(train: Labelled, held_out: Labelled | None = None, names: tuple[str, ...] = ()) -> DataSet:
    """names: of the classes; their numbers where there are none. Without `held_out` nothing is held out.

    Raises UserError where a class has no image, an image no class, or the two parts do not fit each other.
    """
    n = len(names) or int(train.classes.max()) + 1
    if train.classes.min() < 0 or train.classes.max() >= n:
        found = f"{train.classes.min()} to {train.classes.max()}"
        raise UserError(f"{train.where}: classes are from 0 to {n - 1}, not {found}")
    if missing := sorted(set(range(n)) - set(np.unique(train.classes).tolist())):
        raise UserError(f"{train.where}: class {' '.join([str(missing[0]), *names[missing[0] :][:1]])} has no image")
    if held_out and (held_out.rows.shape != train.rows.shape or not set(np.unique(held_out.classes)) <= set(range(n))):
        raise UserError(f"{held_out.where}: what is held out has other shapes or classes than what is trained on")
    empty = Split(train.rows, train.split.condition, torch.zeros(0, dtype=torch.int64))
    labels = names or tuple(map(str, range(n)))
    return DataSet(train.split, held_out.split if held_out else empty, labels, fingerprint_of(train))


def fingerprint_of(images: Labelled) -> str:
    """Of all labels, and of some images that are spread evenly."""
    rows, n = images.rows, len(images.rows)
    digest = hashlib.blake2b(repr((n, rows.shape)).encode(), digest_size=8)
    digest.update(images.classes.tobytes())
    digest.update(rows.take(np.linspace(0, n - 1, LOOKED_AT).astype(np.int64)).numpy().tobytes())
    return digest.hexdigest()
