"""Images side by side as one PNG, without the plotting library, whose import takes half a second."""

import io

import numpy as np
from PIL import Image
from torch import Tensor

from msd_ray.codecs import to_rgb
from msd_ray.codecs.pixels import Pixels

SMALLEST_TILE = 48
GAP = 1
PAPER = 255


def strip(images: Tensor) -> bytes:
    """PNG of images [n, C, H, W] in [-1, 1] side by side, small ones enlarged pixel by pixel."""
    return sheet(images[None])


def sheet(images: Tensor) -> bytes:
    """PNG of images [rows, n, C, H, W] in [-1, 1], a row below the other, small ones enlarged pixel by pixel."""
    rows = [np.pad(side_by_side(row), ((0, GAP), (0, 0), (0, 0)), constant_values=PAPER) for row in images]
    tiled = np.vstack(rows)[:-GAP]
    scale = -(-SMALLEST_TILE // images.shape[-1])
    enlarged = np.kron(tiled, np.ones((scale, scale, 1), np.uint8))
    file = io.BytesIO()
    Image.fromarray(enlarged).save(file, "PNG", optimize=True)
    return file.getvalue()


def side_by_side(images: Tensor) -> Pixels:
    """[n, C, H, W] in [-1, 1] -> [H, n (W + GAP) - GAP, 3]."""
    gapped = np.pad(to_rgb(images.detach()), ((0, 0), (0, 0), (0, GAP), (0, 0)), constant_values=PAPER)
    return np.hstack(list(gapped))[:, :-GAP]
