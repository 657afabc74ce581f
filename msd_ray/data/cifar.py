"""The binary version of CIFAR-10 and CIFAR-100 (A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images,
2009): records of a label, or of a coarse and a fine one, and 3,072 bytes, the planes R, G and B of 32 x 32 pixels."""

from dataclasses import dataclass

import numpy as np

from msd_ray.data.labelled import Labelled, data_set
from msd_ray.data.records import Joined, Records
from msd_ray.data.source import DataSet
from msd_ray.errors import UserError
from msd_ray.storage import Store

SHAPE = (3, 32, 32)
TEN, TEN_HELD_OUT, TEN_NAMES = [f"data_batch_{i}.bin" for i in range(1, 6)], ["test_batch.bin"], "batches.meta.txt"
HUNDRED, HUNDRED_HELD_OUT, HUNDRED_NAMES = ["train.bin"], ["test.bin"], "fine_label_names.txt"


@dataclass(frozen=True)
class Cifar:
    """Trains on the training images, and holds the test images out. Of CIFAR-100 the fine classes are taken."""

    folder: str

    def load(self) -> DataSet:
        """Raises UserError where a file is missing or is not what it should be."""
        store = Store(self.folder)
        sizes = store.sizes()
        fine = HUNDRED[0] in sizes
        train, held_out, names = (HUNDRED, HUNDRED_HELD_OUT, HUNDRED_NAMES) if fine else (TEN, TEN_HELD_OUT, TEN_NAMES)
        if missing := [name for name in [*train, *held_out] if name not in sizes]:
            raise UserError(f"data.folder: there is no {missing[0]} in {store.uri}; it must hold the binary version")
        labels = tuple(store.read(names).decode("utf-8", "replace").split()) if names in sizes else ()
        return data_set(_images(store, train, 1 + fine), _images(store, held_out, 1 + fine), labels)


def _images(store: Store, names: list[str], labels: int) -> Labelled:
    """labels: of each record, of which the last is the class."""
    step, sizes = labels + int(np.prod(SHAPE)), store.sizes()
    for name in names:
        if not sizes[name] or sizes[name] % step:
            raise UserError(f"{store.uri}/{name} has {sizes[name]} bytes, no multiple of {step}; fetch it again")
    parts = [Records(store, name, sizes[name] // step, SHAPE, labels, step) for name in names]
    content = [np.frombuffer(store.read(name), np.uint8).reshape(-1, step) for name in names]
    classes = np.concatenate([each[:, labels - 1] for each in content]).astype(np.int64)
    return Labelled(Joined(parts), classes, f"{store.uri}/{names[0]}")
