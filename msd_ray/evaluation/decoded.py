"""Judging samples by their pictures, where a codec says what these are."""

from dataclasses import dataclass, replace

from torch import Tensor

from msd_ray.codecs import Codec
from msd_ray.data import DataSet, Split
from msd_ray.data.source import Indices, Rows, as_seen
from msd_ray.evaluation.feature_distances import Features
from msd_ray.evaluation.features import FeatureNet


@dataclass(frozen=True)
class _Pictures:
    """The pictures of stored samples, as rows."""

    rows: Rows
    codec: Codec

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codec.picture_shape(self.rows.shape) or self.rows.shape

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Indices) -> Tensor:
        return self.codec.to_pixels(as_seen(self.rows.take(indices)))


def decoded(data: DataSet, codec: Codec) -> DataSet:
    """The data set's pictures, made when they are asked for."""

    def of(split: Split) -> Split:
        return replace(split, rows=_Pictures(split.rows, codec))

    return replace(data, train=of(data.train), held_out=of(data.held_out))


@dataclass(frozen=True)
class OfPictures:
    """The features of samples' pictures."""

    net: FeatureNet
    codec: Codec

    @property
    def name(self) -> str:
        return self.net.name

    def features(self, x: Tensor) -> Features:
        return self.net.features(self.codec.to_pixels(x))

    def classify(self, x: Tensor) -> Tensor | None:
        return self.net.classify(self.codec.to_pixels(x))
