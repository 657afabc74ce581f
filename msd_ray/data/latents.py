"""Latents of images of any other format, which a VAE encodes once, into the user's cache."""

import logging
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msd_ray.codecs.vae import Vae
from msd_ray.data.local_copy import local_copy
from msd_ray.data.records import Records
from msd_ray.data.registry import DataConfig, identity, load_data
from msd_ray.data.source import DataSet, Indices, Split
from msd_ray.errors import UserError
from msd_ray.storage import Store, digest

TOGETHER = 64
"""Images that are read at a time."""
_VERSION = 1  # to be raised when the same images are encoded to something else
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Latents:
    """folder: of the images. vae: the directory of the VAE, or of a pipeline that has one. images: the format of the
    images, with its `options`. Encoding takes a GPU where there is one."""

    folder: str
    vae: str
    images: str = "folder"
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    def load(self) -> DataSet:
        """Raises UserError where there are no such images, or no VAE for them."""
        config = DataConfig(self.images, self.folder, self.options)
        data, vae = load_data(config), Vae(self.vae)
        shape, known = vae.latent_shape(data.shape), [_VERSION, identity(config), vae.fingerprint]

        def of(split: Split, name: str) -> Split:
            every = Split(split.rows, split.condition)
            path = local_copy(f"latents-{digest([*known, name])}.npy", lambda to: _encode(every, vae, shape, to))
            return replace(split, rows=_rows(path, shape))

        train, held_out = of(data.train, "train"), data.held_out
        shares = held_out.rows is data.train.rows
        rest = replace(held_out, rows=train.rows) if shares else of(held_out, "held_out")
        return DataSet(train, rest, data.labels, digest([data.fingerprint, *known]))


@dataclass(frozen=True)
class _Rows:
    """Rows of float32 of `shape`, whose bytes `records` has."""

    records: Records
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.records)

    def take(self, indices: Indices) -> Tensor:
        return self.records.take(indices).view(torch.float32).view(-1, *self.shape)


def _rows(path: str, shape: tuple[int, ...]) -> _Rows:
    array, size = np.load(path, mmap_mode="r"), 4 * int(np.prod(shape))
    folder, _, name = path.rpartition("/")
    return _Rows(Records(Store(folder), name, len(array), (size,), array.offset, size), shape)


def _encode(images: Split, vae: Vae, shape: tuple[int, ...], to: str) -> None:
    device, n = torch.device("cuda" if torch.cuda.is_available() else "cpu"), len(images)
    log.info("encoding %d images with the VAE at %s, once", n, vae.path)
    with open(to, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (n, *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for numbers in torch.split(torch.arange(n), TOGETHER):
            latents = vae.encode(images.take(numbers).x.to(device), numbers.tolist()).cpu()
            if not latents.isfinite().all():
                raise UserError(f"the VAE at {vae.path} makes latents that are not finite; take another")
            file.write(latents.numpy().tobytes())
