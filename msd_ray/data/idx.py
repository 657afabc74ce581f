"""IDX files, in which MNIST (Y. LeCun, C. Cortes and C. Burges, http://yann.lecun.com/exdb/mnist) and Fashion-MNIST
(arXiv 1708.07747) come: `train-` and `t10k-images-idx3-ubyte` and `-labels-idx1-ubyte`, packed by gzip or not.

Packed files are unpacked into memory, since gzip cannot be read from the middle; others are read where they lie.
"""

import gzip
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from msd_ray.data.labelled import Labelled, data_set
from msd_ray.data.ranged_file import refuse_pointer
from msd_ray.data.records import Records
from msd_ray.data.source import DataSet, Indices, InMemory, Rows
from msd_ray.errors import UserError, one_line
from msd_ray.ranges import Width
from msd_ray.storage import LFS_POINTER, Store

IMAGES, LABELS = 0x803, 0x801
"""What the two kinds of files begin with: unsigned bytes in three dimensions, and in one."""
GZIP, MOST_TIMES = b"\x1f\x8b", 1032
"""What gzip's files begin with, and how many times smaller deflate can make a file at most."""


@dataclass(frozen=True)
class Idx:
    """size: of a side in pixels; smaller images get a black border. held_out: the split that is not trained on; with
    `none` that is trained on train, and nothing is held out. labels: names of the classes in their order."""

    folder: str
    size: Width | None = None
    held_out: Literal["t10k", "train", "none"] = "t10k"
    labels: tuple[str, ...] = ()

    def load(self) -> DataSet:
        """Raises UserError where a file is missing or is not what it should be."""
        train, held_out = ("t10k", "train") if self.held_out == "train" else ("train", self.held_out)
        return data_set(self._split(train), None if held_out == "none" else self._split(held_out), self.labels)

    def _split(self, name: str) -> Labelled:
        store = Store(self.folder)
        images = _opened(store, f"{name}-images", IMAGES)
        labels = _opened(store, f"{name}-labels", LABELS)
        classes = labels.take(np.arange(len(labels))).numpy().astype(np.int64)
        return Labelled(Bordered(images, self.size) if self.size else images, classes, f"{store.uri}/{name}-labels")


class Bordered:
    """Square images with a black border, so that a side has `size` pixels."""

    def __init__(self, rows: Rows, size: int) -> None:
        _, height, width = rows.shape
        if height != width or size < height:
            raise UserError(f"data.options.size: images of {height} x {width} get no border to {size} x {size}")
        self._rows, self.shape = rows, (1, size, size)
        before = (size - height) // 2
        self._border = (before, size - height - before) * 2

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, indices: Indices) -> Tensor:
        return pad(self._rows.take(indices), self._border)


def _opened(store: Store, stem: str, magic: int) -> Rows:
    """Images [N, 1, H, W], or labels [N]."""
    ending = f"idx{magic % 256}-ubyte"
    names = [f"{stem}{sign}{ending}{packed}" for packed in ("", ".gz") for sign in "-."]
    sizes = store.sizes()
    name = next((name for name in names if name in sizes), None)
    if name is None:
        raise UserError(f"data.folder: there is no {names[0]} in {store.uri}, packed (.gz) or not")
    try:
        return _rows(store, name, magic, sizes[name])
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{store.uri}/{name} cannot be unpacked: {one_line(error)}; fetch it again") from None


def _rows(store: Store, name: str, magic: int, size: int) -> Rows:
    head, where = 4 + 4 * (magic % 256), f"{store.uri}/{name}"
    beginning = store.read_range(name, 0, len(LFS_POINTER))
    refuse_pointer(beginning, where)
    packed = beginning.startswith(GZIP)
    file = gzip.GzipFile(fileobj=BytesIO(store.read(name))) if packed else None
    n, *sides = _dimensions(file.read(head) if file else store.read_range(name, 0, head), magic, where)
    shape = (1, *sides) if sides else ()
    each = int(np.prod(shape, dtype=object))
    if not file and size == head + n * each:
        return Records(store, name, n, shape, head, each)
    if file and n * each <= MOST_TIMES * size:
        data = file.read(n * each + 1)
        if len(data) == n * each:
            return InMemory(torch.frombuffer(bytearray(data), dtype=torch.uint8).view(n, *shape))
    raise UserError(f"{where} has not the {n} x {each} bytes that it begins by naming; fetch it again")


def _dimensions(head: bytes, magic: int, where: str) -> list[int]:
    values: list[int] = np.frombuffer(head[: len(head) // 4 * 4], ">u4").tolist()
    if values[:1] != [magic] or len(values) != 1 + magic % 256 or 0 in values:
        kind = "images" if magic == IMAGES else "labels"
        raise UserError(f"{where} is no IDX file of {kind}: it begins with {head[:4].hex()}, not {magic:08x}")
    return values[1:]
