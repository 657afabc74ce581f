"""Grey pictures of a few levels, as tokens: [n, H, W], at each pixel one 1 among n levels from black to white."""

from dataclasses import dataclass

import torch
from torch import Tensor

KIND = "levels"


@dataclass(frozen=True)
class Levels:
    """Has no options: samples say how many levels there are."""

    def picture_shape(self, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Raises ValueError where these are no tokens of pixels."""
        if len(sample_shape) != 3:
            raise ValueError(f"samples of shape {list(sample_shape)} are no tokens [levels, H, W]")
        return (1, *sample_shape[1:])

    def to_pixels(self, x: Tensor) -> Tensor:
        index = x.argmax(dim=1, keepdim=True)
        return index.float() * (2 / (x.shape[1] - 1)) - 1


def levels_of(x: Tensor, n: int) -> Tensor:
    """The number of the level nearest to each pixel: [B, H, W], of pictures [B, 1, H, W] in [-1, 1]."""
    scaled = (x[:, 0].float() + 1) * ((n - 1) / 2)
    return scaled.round().clamp(0, n - 1).to(torch.int64)


def are_tokens(x: Tensor) -> bool:
    """Whether samples [B, n, ...] are tokens, none of them masked."""
    return bool(((x == 0) | (x == 1)).all() and (x.sum(dim=1) == 1).all())
