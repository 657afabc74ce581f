"""Images in numpy files: `images.npy`, uint8 [N, C, H, W], and `labels.npy`, integers [N]; optionally
`held_out_images.npy` and `held_out_labels.npy`, and `labels.txt` with the name of each class on a line.

Images are read one by one where they lie and not mapped into memory, so that a process holds no more of them than the
batch that it works on, however many there are.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msd_ray.data.source import DataSet, Indices, Split
from msd_ray.errors import UserError, one_line

LOOKED_AT = 64
"""Images that a fingerprint reads."""


class StoredImages:
    """The images of a .npy file. Raises UserError where it holds none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _told(path):
            array = np.load(path, mmap_mode="r")
        if array.dtype != np.uint8 or array.ndim != 4 or not array.flags.c_contiguous:
            raise UserError(f"{path} must hold uint8 [N, C, H, W] in C order, not {array.dtype} {list(array.shape)}")
        self._n, self.shape, self._begin = len(array), tuple(array.shape[1:]), array.offset

    def __len__(self) -> int:
        return self._n

    def take(self, indices: Indices) -> Tensor:
        size = int(np.prod(self.shape))
        found = np.empty((len(indices), size), dtype=np.uint8)
        for row, index in zip(found, indices, strict=True):
            if os.preadv(self._file, [row.data], self._begin + int(index) * size) != size:
                raise UserError(f"{self.path} is cut short: it has no image {index}")
        return torch.from_numpy(found).view(-1, *self.shape)

    @cached_property
    def _file(self) -> int:
        return os.open(self.path, os.O_RDONLY)

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_file"}

    def __del__(self) -> None:
        if "_file" in self.__dict__:
            os.close(self._file)


def load(folder: str) -> DataSet:
    """The data set in a folder. Without held-out files nothing is held out.

    Raises UserError where a file is missing or is not what it should be.
    """
    where = Path(folder).expanduser()
    images, classes = _pair(where, "")
    named = _names(where / "labels.txt")
    n = len(named) or int(classes.max()) + 1
    if classes.min() < 0 or classes.max() >= n:
        raise UserError(
            f"{where / 'labels.npy'}: classes are from 0 to {n - 1}, not {classes.min()} to {classes.max()}"
        )
    if missing := sorted(set(range(n)) - set(np.unique(classes).tolist())):
        raise UserError(f"{where / 'labels.npy'}: class {missing[0]} has no image")
    train = Split(images, torch.from_numpy(classes))
    held_out = Split(images, train.condition, torch.zeros(0, dtype=torch.int64))
    if (where / "held_out_images.npy").exists():
        others, their_classes = _pair(where, "held_out_")
        if others.shape != images.shape or not set(np.unique(their_classes)) <= set(range(n)):
            raise UserError(f"{where}: what is held out has other shapes or classes than what is trained on")
        held_out = Split(others, torch.from_numpy(their_classes))
    return DataSet(train, held_out, named or tuple(map(str, range(n))), _fingerprint(images, classes))


def _pair(where: Path, prefix: str) -> tuple[StoredImages, NDArray[np.int64]]:
    images, path = StoredImages(where / f"{prefix}images.npy"), where / f"{prefix}labels.npy"
    with _told(path):
        classes = np.load(path)
    if classes.ndim != 1 or classes.dtype.kind not in "iu":
        raise UserError(f"{path} must hold integers [N], not {classes.dtype} {list(classes.shape)}")
    if len(classes) != len(images) or not len(classes):
        raise UserError(f"{path} has {len(classes)} labels for {len(images)} images")
    return images, classes.astype(np.int64)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Says in one line why a file cannot be read."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"data.folder: there is no {path}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a numpy array: {one_line(error)}") from None


def _names(path: Path) -> tuple[str, ...]:
    return tuple(path.read_text(encoding="utf-8").splitlines()) if path.exists() else ()


def _fingerprint(images: StoredImages, classes: NDArray[np.int64]) -> str:
    """Of all labels, and of some images that are spread evenly."""
    digest = hashlib.blake2b(repr((len(images), images.shape)).encode(), digest_size=8)
    digest.update(classes.tobytes())
    digest.update(images.take(np.linspace(0, len(images) - 1, LOOKED_AT).astype(np.int64)).numpy().tobytes())
    return digest.hexdigest()
