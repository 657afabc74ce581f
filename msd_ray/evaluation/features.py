"""The features that samples are compared in."""

from typing import Protocol

import torch
from torch import Tensor

from msd_ray.data import DataSet
from msd_ray.errors import UserError
from msd_ray.evaluation.feature_distances import Features
from msd_ray.storage import Store

DIGITS_SHAPE = (1, 8, 8)


class FeatureNet(Protocol):
    """A frozen map from samples to features; also a classifier where there is one."""

    @property
    def name(self) -> str: ...

    def features(self, x: Tensor) -> Features:
        """x [N, C, H, W] in [-1, 1] or points [N, D] -> [N, d] float64."""
        ...

    def classify(self, x: Tensor) -> Tensor | None:
        """The class that each sample looks like, [N] int64; None where the network knows no classes."""
        ...


def load_features(name: str, data: DataSet, cache: Store) -> FeatureNet:
    """The features called `name`: digits, identity, inception, or auto, which picks by the shape of the data.

    cache: where networks are kept from one run to the next. Raises UserError where the features do not fit the data or
    cannot be had.
    """
    from msd_ray.evaluation import coordinates, digits_net, inception  # here, because they build on this module

    choice = features_name(name, data.shape)
    if choice == "digits":
        if data.shape != DIGITS_SHAPE:
            raise UserError(f"evaluation.features: digits needs images of shape 1 x 8 x 8, not {_times(data.shape)}")
        return digits_net.load_or_train(data, cache)
    if choice == "identity":
        return coordinates.Coordinates(data)
    if choice == "inception":
        if len(data.shape) != 3 or data.shape[0] not in (1, 3):
            raise UserError(f"evaluation.features: inception needs grey or RGB images, not {_times(data.shape)}")
        return inception.load(cache)
    raise UserError(f"evaluation.features: must be auto, digits, identity or inception, not {name}")


def features_name(name: str, shape: tuple[int, ...]) -> str:
    """What `name` means for samples of this shape: auto picks by it."""
    if name != "auto":
        return name
    if shape == DIGITS_SHAPE:
        return "digits"
    return "identity" if len(shape) == 1 else "inception"


def as_stored(x: Tensor) -> Tensor:
    """x as it comes back from an 8-bit file: images [N, C, H, W] clamped to [-1, 1] and rounded; points unchanged."""
    return to_bytes(x).to(x.dtype) / 127.5 - 1 if x.ndim == 4 else x


def to_bytes(x: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8 0..255; values outside are clamped, and what is not a number is black."""
    return ((x.float().nan_to_num(nan=-1).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
