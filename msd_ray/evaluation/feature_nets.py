"""Which networks of features there are."""

from dataclasses import dataclass
from math import prod

from msd_ray.codecs import IDENTITY, Codec
from msd_ray.data import DataSet
from msd_ray.errors import UserError
from msd_ray.evaluation import classifier, clip, coordinates, digits_net, efficientnet, inception
from msd_ray.evaluation.decoded import OfPictures, decoded
from msd_ray.evaluation.features import FeatureNet
from msd_ray.storage import Store

TRAINED = {kind.name: kind for kind in (digits_net.DIGITS, classifier.CLASSIFIER)}
"""Those that are trained on the data."""
NAMES = (*TRAINED, "identity", "inception", "inception-legacy", clip.NAME, efficientnet.NAME)
SIDES = range(32, 1025)
"""Pixels of a side that EfficientNet-Lite0 may be asked to see images at: `efficientnet-lite0-64`."""


@dataclass(frozen=True)
class FeatureFiles:
    """Where networks lie that are not made here. inception: the file of Inception's weights; empty for the cache's.
    clip: the directory of a `CLIPModel`."""

    inception: str = ""
    clip: str = ""


def load_features(
    name: str, data: DataSet, cache: Store, codec: Codec = IDENTITY, files: FeatureFiles = FeatureFiles()
) -> FeatureNet:
    """The features called `name`: one of NAMES, or auto, which picks by the shape of the pictures.

    cache: where networks are kept from one run to the next. codec: what samples look like. Raises UserError where the
    features do not fit the data or cannot be had.
    """
    choice, picture = features_name(name, data.shape, codec), codec.picture_shape(data.shape)
    if codec == IDENTITY:
        return _load(choice, data, picture, cache, files)
    return OfPictures(_load(choice, decoded(data, codec), picture, cache, files), codec)


def _load(choice: str, data: DataSet, picture: tuple[int, ...] | None, cache: Store, files: FeatureFiles) -> FeatureNet:
    """picture: the shape of the samples' pictures, None where they have none."""
    check_name(choice)
    if choice == "identity":
        return coordinates.Coordinates(data)
    if choice == digits_net.DIGITS.name and picture != digits_net.SHAPE:
        raise UserError(f"evaluation.features: digits needs images of shape 1 x 8 x 8, not {_times(data.shape)}")
    if picture is None:
        raise UserError(f"evaluation.features: {choice} needs grey or RGB images, not {_times(data.shape)}")
    if choice in TRAINED:
        return classifier.load_or_train(TRAINED[choice], data, cache)
    if choice == clip.NAME:
        return clip.load(files.clip)
    side = _side(choice)
    return efficientnet.load(side) if side else inception.load(cache, files.inception, legacy=choice != "inception")


def features_name(name: str, shape: tuple[int, ...], codec: Codec = IDENTITY) -> str:
    """What `name` means for samples of this shape: auto picks by that of their pictures."""
    if name != "auto":
        return name
    picture = codec.picture_shape(shape)
    if picture == digits_net.SHAPE:
        return "digits"
    return "inception" if picture else "identity"


def dimensions(name: str, shape: tuple[int, ...], files: FeatureFiles = FeatureFiles()) -> int:
    """How many numbers the features of that name have, for samples of this shape."""
    if name == clip.NAME:
        return clip.width(files.clip)
    known = dict.fromkeys(TRAINED, classifier.WIDTH) | {"identity": prod(shape)}
    return known.get(name, efficientnet.WIDTH if _side(name) else inception.WIDTH)


def check_name(name: str) -> None:
    """Raises UserError if there are no such features."""
    if name not in ("auto", *NAMES) and not _side(name):
        raise UserError(f"evaluation.features: must be auto, {', '.join(NAMES)}, or {NAMES[-1]}-64 and the like, "
                        f"which sees images at that many pixels ({SIDES[0]} to {SIDES[-1]}), not {name}")  # fmt: skip


def _side(name: str) -> int | None:
    """The pixels of a side at which EfficientNet-Lite0 sees images; None for other features."""
    base, _, said = name.rpartition("-")
    if name == efficientnet.NAME:
        return efficientnet.SIDE
    return int(said) if base == efficientnet.NAME and said.isdecimal() and int(said) in SIDES else None


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
