"""Pictures in [-1, 1] as files hold them."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Pixels = NDArray[np.uint8]


def to_bytes(x: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8 0..255; values outside are clamped, and what is not a number is black."""
    return ((x.float().nan_to_num(nan=-1).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def as_stored(x: Tensor) -> Tensor:
    """x as it comes back from an 8-bit file: images [N, C, H, W] clamped to [-1, 1] and rounded; points unchanged."""
    return to_bytes(x).to(x.dtype) / 127.5 - 1 if x.ndim == 4 else x


def to_rgb(x: Tensor) -> Pixels:
    """Grey or RGB images [N, C, H, W] in [-1, 1] -> [N, H, W, 3]."""
    rgb: Pixels = to_bytes(x).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()
    return rgb


def to_image(x: Tensor) -> Pixels:
    """An image [C, H, W] in [-1, 1] -> [H, W] if it is grey, [H, W, 3] if it is RGB."""
    pixels: Pixels = to_bytes(x).permute(1, 2, 0).cpu().numpy()
    return pixels.squeeze(2) if pixels.shape[2] == 1 else pixels


def edges(x: Tensor) -> Tensor:
    """Sobel's slopes across and down of images [B, C, H, W], per pixel, [2 B, C, H - 2, W - 2]. Points [B, D] have
    none: a zero for each, [B, 1]."""
    if x.ndim != 4:
        return x.new_zeros(len(x), 1)
    smooth, slope = x.new_tensor([1.0, 2.0, 1.0]) / 4, x.new_tensor([-1.0, 0.0, 1.0]) / 2
    across = (smooth[:, None] * slope).expand(x.shape[1], 1, 3, 3)
    return torch.cat([F.conv2d(x, kernel, groups=x.shape[1]) for kernel in (across, across.mT)])
