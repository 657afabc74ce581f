import dataclasses
from pathlib import Path

import pytest
import torch

from msd_ray.data import DataSet, in_memory
from msd_ray.errors import UserError
from msd_ray.evaluation import classifier, load_features
from msd_ray.storage import Store

SHORT = dataclasses.replace(classifier.CLASSIFIER, epochs=8, images=0)


def pictures(n: int, side: int, channels: int = 3, classes: int = 2) -> DataSet:
    """Noise, brighter in one half, which tells the class; uint8, as files have it."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(0, 128, (n, channels, side, side), generator=rng, dtype=torch.uint8)
    y = torch.arange(n) % classes
    x[y == 1, :, : side // 2] += 127
    split = in_memory(x, y)
    return DataSet(split, split, tuple(map(str, range(classes))))


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (32, 3), (100, 3)])
def test_pictures_of_any_size_are_classified(side: int, channels: int) -> None:
    data = pictures(256, side, channels)
    net = classifier.train(SHORT, data)
    assert classifier.accuracy(net, data) > 0.95
    features = net.features(data.train.all().x)
    assert features.shape == (256, classifier.WIDTH)
    assert (features**2).mean() == pytest.approx(1, rel=1e-4)


def test_few_images_are_seen_more_often_and_many_are_thinned(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(classifier, "QUIET", -1.0)
    classifier.train(dataclasses.replace(SHORT, images=640, most=32), pictures(64, 8))
    assert caplog.messages[-1] == "the classifier features are trained once: epoch 20 of 20"
    assert len(caplog.messages) == 20


def test_data_of_one_class_has_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"evaluation\.features: classifier needs data of two or more classes"):
        load_features("classifier", pictures(16, 8, classes=1), Store(str(tmp_path)))


def test_what_is_no_picture_has_none(toy: DataSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="classifier needs grey or RGB images"):
        load_features("classifier", toy, Store(str(tmp_path)))
