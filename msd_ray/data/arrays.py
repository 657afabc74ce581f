"""Images in numpy files: `images.npy`, uint8 [N, C, H, W], and `labels.npy`, integers [N]; optionally
`held_out_images.npy` and `held_out_labels.npy`, and `labels.txt` with the name of each class on a line.

Images are read one by one where they lie and not mapped into memory, so that a process holds no more of them than the
batch that it works on, however many there are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msd_ray.data.labelled import Labelled, data_set
from msd_ray.data.records import Records
from msd_ray.data.source import DataSet
from msd_ray.errors import UserError, one_line
from msd_ray.storage import Store


@dataclass(frozen=True)
class Arrays:
    """Has no options but where the files lie."""

    folder: str

    def load(self) -> DataSet:
        """Raises UserError where a file is missing or is not what it should be."""
        where = Path(self.folder).expanduser()
        held_out = _pair(where, "held_out_") if (where / "held_out_images.npy").exists() else None
        return data_set(_pair(where, ""), held_out, _names(where / "labels.txt"))


def _pair(where: Path, prefix: str) -> Labelled:
    path = where / f"{prefix}labels.npy"
    images = _images(where / f"{prefix}images.npy")
    with _told(path):
        classes = np.load(path)
    if classes.ndim != 1 or classes.dtype.kind not in "iu":
        raise UserError(f"{path} must hold integers [N], not {classes.dtype} {list(classes.shape)}")
    return Labelled(images, classes.astype(np.int64), str(path))


def _images(path: Path) -> Records:
    """The images of a .npy file. Raises UserError where it holds none."""
    with _told(path):
        array = np.load(path, mmap_mode="r")
    if array.dtype != np.uint8 or array.ndim != 4 or not array.flags.c_contiguous:
        raise UserError(f"{path} must hold uint8 [N, C, H, W] in C order, not {array.dtype} {list(array.shape)}")
    shape = array.shape[1:]
    return Records(Store(str(path.parent)), path.name, len(array), shape, array.offset, int(np.prod(shape)))


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
