"""Images of another format, each with a smaller version of itself as its condition."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from msd_ray.codecs import to_bytes
from msd_ray.conditions.picture_prompt import MODES, as_text
from msd_ray.data.registry import DataConfig, identity, load_data
from msd_ray.data.source import CHUNK, DataSet, Split
from msd_ray.errors import UserError
from msd_ray.ranges import Count
from msd_ray.storage import digest
from msd_ray.validation import made_of

_VERSION = 1  # to be raised when the same images get other conditions


@dataclass(frozen=True)
class SuperResolution:
    """of: the images, as `data` of a recipe names them. factor: how many times smaller the conditions are. Each image
    is a class of its own, whose label is its smaller version, as `conditions.options.embedder=picture` reads it.
    Nothing is held out: what `of` holds out is never trained on either."""

    of: dict[str, Any] = field(default_factory=lambda: {"name": "digits"}, hash=False)
    factor: Count = 2

    def __post_init__(self) -> None:
        made_of(DataConfig, self.of, "of")

    def load(self) -> DataSet:
        """Raises UserError where the data are no images that can be made so much smaller."""
        config = made_of(DataConfig, self.of)
        train = load_data(config).train
        shape = train.shape
        if len(shape) != 3 or shape[0] not in MODES or any(side % self.factor for side in shape[1:]):
            raise UserError(
                f"data.options.factor: samples of shape {list(shape)} cannot be made {self.factor} times smaller: grey "
                f"or RGB images are needed, with sides that {self.factor} divides"
            )
        numbers = torch.arange(len(train))
        smaller = [to_bytes(reduced(train.take(some).x, self.factor)) for some in torch.split(numbers, CHUNK)]
        labels = tuple(as_text(picture) for part in smaller for picture in part)
        condition = numbers if train.own is None else torch.zeros_like(train.condition).index_put((train.own,), numbers)
        fingerprint = digest([_VERSION, identity(config), self.factor, list(labels)])
        none = Split(train.rows, condition, torch.zeros(0, dtype=torch.int64))
        return DataSet(Split(train.rows, condition, train.own), none, labels, fingerprint)


def reduced(x: Tensor, factor: int) -> Tensor:
    """Images [B, C, H, W] in [-1, 1] at a size that is `factor` times smaller, by bicubic interpolation with
    antialiasing."""
    height, width = x.shape[2] // factor, x.shape[3] // factor
    return F.interpolate(x, (height, width), mode="bicubic", antialias=True).clamp(-1, 1)
