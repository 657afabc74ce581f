"""ImageNet at 64 x 64 pixels as its authors give it (arXiv 1707.08819): train_data_batch_1.npz to _10 and val_data.npz,
with `data`, uint8 [N, 12288], the planes R, G and B, and `labels`, 1 to 1000, in the order of the ILSVRC devkit.

Teachers number the classes by their sorted WordNet ids (0 is n01440764, tench), so the labels are renumbered by
map_clsloc.txt, which the devkit and the authors' scripts bring along: lines such as `n02119789 1 kit_fox`. The images
are `squeeze` of msd_ray.data.preprocessing, which is not what EDM's and ADM's teachers saw.
"""

import io
import zipfile
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from msd_ray.data.labelled import Labelled, data_set
from msd_ray.data.ranged_file import ranged_file
from msd_ray.data.records import Joined, Records
from msd_ray.data.source import DataSet
from msd_ray.errors import UserError, one_line
from msd_ray.ranges import Width
from msd_ray.storage import Store

ORDER, HELD_OUT = "map_clsloc.txt", "val_data.npz"
LOCAL_HEADER = 30
"""Bytes of a zip entry before its name."""


@dataclass(frozen=True)
class ImageNet64:
    """size: of a side; the same release has 16 and 32 as well. Holds the validation images out where they are there."""

    folder: str
    size: Width = 64

    def load(self) -> DataSet:
        """Raises UserError where a file is missing or is not what it should be."""
        store = Store(self.folder)
        sizes = store.sizes()
        batches = [f"train_data_batch_{i}.npz" for i in range(1, 11)]
        if missing := [name for name in [*batches, ORDER] if name not in sizes]:
            raise UserError(f"data.folder: there is no {missing[0]} in {store.uri}")
        order, names = _order(store)
        held_out = self._images(store, [HELD_OUT], order) if HELD_OUT in sizes else None
        return data_set(self._images(store, batches, order), held_out, names)

    def _images(self, store: Store, files: list[str], order: NDArray[np.int64]) -> Labelled:
        found = [_batch(store, name, self.size) for name in files]
        classes = np.concatenate([labels for _, labels in found])
        if classes.min() < 1 or classes.max() > len(order):
            raise UserError(f"{store.uri}: labels are from 1 to {len(order)}, not {classes.min()} to {classes.max()}")
        return Labelled(Joined([images for images, _ in found]), order[classes - 1], f"{store.uri}/{files[0]}")


def _order(store: Store) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The number of each class by its place in the devkit's list, and the names by these numbers."""
    lines = [line.split() for line in store.read(ORDER).decode("utf-8", "replace").splitlines() if line.strip()]
    ids = {int(line[1]): (line[0], line[2]) for line in lines if len(line) == 3 and line[1].isdecimal()}
    if not lines or sorted(ids) != list(range(1, len(lines) + 1)):
        raise UserError(f"{store.uri}/{ORDER} must have lines such as `n02119789 1 kit_fox`, numbered from 1 on")
    ranked = sorted(ids.values())
    number = {wordnet: i for i, (wordnet, _) in enumerate(ranked)}
    order = np.array([number[ids[i][0]] for i in sorted(ids)], np.int64)
    return order, tuple(name.replace("_", " ") for _, name in ranked)


def _batch(store: Store, name: str, size: int) -> tuple[Records, NDArray[np.int64]]:
    """Images where they lie in the file, and their labels."""
    where, shape = f"{store.uri}/{name}", (3, size, size)
    try:
        with zipfile.ZipFile(file := ranged_file(store, name)) as archive, archive.open("labels.npy") as labels:
            classes = np.load(io.BytesIO(labels.read()), allow_pickle=False)
            begin, kind, sides = _array_at(file, archive.getinfo("data.npy"))
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError, NotImplementedError) as error:
        raise UserError(f"{where} is not what it should be ({one_line(error)}); fetch it again") from None
    step = int(np.prod(shape))
    if kind != np.uint8 or sides != (len(classes), step) or classes.dtype.kind not in "iu":
        raise UserError(f"{where}: data must be uint8 [{len(classes)}, {step}], not {kind} {list(sides)}")
    return Records(store, name, len(classes), shape, begin, step), classes.astype(np.int64)


def _array_at(file: io.BufferedReader, entry: zipfile.ZipInfo) -> tuple[int, np.dtype, tuple[int, ...]]:
    """Where the first byte of an array lies in the file, its type and shape. Raises ValueError where it is packed."""
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError("it is packed, so that no image can be read alone; write it anew with numpy.savez")
    file.seek(entry.header_offset)
    header = file.read(LOCAL_HEADER)
    file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, kind = read(file)
    if fortran:
        raise ValueError("its array is in Fortran's order")
    return file.tell(), kind, shape
