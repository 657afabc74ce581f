import dataclasses
import shutil
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from msd_ray.codecs import as_stored
from msd_ray.data import DataSet
from msd_ray.errors import UserError
from msd_ray.evaluation import FeatureFiles, FeatureNet, classifier, inception, load_features
from msd_ray.evaluation.digits_net import DIGITS
from msd_ray.evaluation.inception import Inception, LegacyInception
from msd_ray.storage import Store


def test_stored_images_have_256_levels_and_stored_points_do_not_change() -> None:
    x = torch.tensor([-3.0, -1.0, 0.001, 0.999, 1.0, float("nan")]).reshape(-1, 1, 1, 1)
    levels = (as_stored(x) + 1) * 127.5
    assert torch.allclose(levels.flatten(), torch.tensor([0.0, 0.0, 128.0, 255.0, 255.0, 0.0]))
    points = torch.randn(5, 2)
    assert torch.equal(as_stored(points), points)


def test_digits_are_classified_as_well_as_expected(digits: DataSet, digits_features: FeatureNet) -> None:
    assert digits_features.name == "digits"
    guess = digits_features.classify(digits.held_out.all().x)
    assert guess is not None
    assert (guess == digits.held_out.classes).double().mean() >= 0.95


def test_digits_features_are_64_numbers_of_unit_mean_square(digits: DataSet, digits_features: FeatureNet) -> None:
    features = digits_features.features(digits.train.all().x)
    assert features.shape == (len(digits.train), 64) and features.dtype == np.float64
    assert (features**2).mean() == pytest.approx(1, rel=1e-4)
    assert np.linalg.matrix_rank(np.cov(features, rowvar=False)) == 64


def test_training_repeats_and_leaves_the_global_random_state(digits: DataSet) -> None:
    short = dataclasses.replace(DIGITS, epochs=1)
    torch.manual_seed(3)
    expected = torch.rand(())
    first = classifier.train(short, digits)
    torch.manual_seed(3)
    second = classifier.train(short, digits)
    assert torch.equal(torch.rand(()), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_the_second_load_does_not_train(
    digits: DataSet, digits_features: FeatureNet, digits_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "train", pytest.fail)
    again = load_features("digits", digits, Store(str(digits_cache)))
    x = digits.held_out.all().x
    assert np.array_equal(again.features(x), digits_features.features(x))


def test_other_data_does_not_get_the_same_network(digits: DataSet) -> None:
    assert classifier._key(DIGITS, digits) != classifier._key(
        DIGITS, dataclasses.replace(digits, train=digits.held_out)
    )


@pytest.mark.usefixtures("digits_features")
def test_a_damaged_network_is_trained_again(
    digits: DataSet,
    digits_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.copytree(digits_cache, tmp_path, dirs_exist_ok=True)
    (weights,) = [path for path in tmp_path.rglob("*") if path.is_file() and b"body.0" in path.read_bytes()]
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    trained = classifier.untrained(DIGITS, digits)
    monkeypatch.setattr(classifier, "train", lambda kind, data: trained)
    assert load_features("digits", digits, Store(str(tmp_path))) is trained
    assert "damaged" in caplog.text
    monkeypatch.setattr(classifier, "train", pytest.fail)
    load_features("digits", digits, Store(str(tmp_path)))


def test_points_are_their_own_features(toy: DataSet, tmp_path: Path) -> None:
    net = load_features("auto", toy, Store(str(tmp_path)))
    assert net.name == "identity"
    assert np.allclose(net.features(toy.held_out.all().x), toy.held_out.all().x.numpy())
    guess = net.classify(toy.held_out.all().x)
    assert guess is not None and torch.equal(guess, toy.held_out.classes)


def test_features_that_do_not_fit_are_a_user_error(toy: DataSet, tmp_path: Path) -> None:
    for name in ("digits", "inception", "magic"):
        with pytest.raises(UserError, match=r"evaluation\.features"):
            load_features(name, toy, Store(str(tmp_path)))


def test_inception_gets_rgb_of_299_pixels_in_0_to_255() -> None:
    seen: list[Tensor] = []

    def extractor(batch: Tensor) -> Tensor:
        seen.append(batch)
        return batch.mean((2, 3))

    grey = torch.tensor([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1).expand(-1, -1, 8, 8)
    net = Inception(extractor)
    features = net.features(grey)
    assert seen[0].shape == (3, 3, 299, 299) and seen[0].dtype == torch.float32
    assert features.dtype == np.float64
    assert features == pytest.approx(np.array([[0.0] * 3, [128.0] * 3, [255.0] * 3]))
    assert net.classify(grey) is None


def test_the_legacy_mode_gets_bytes_of_the_images_own_size() -> None:
    seen: list[Tensor] = []

    def extractor(batch: Tensor) -> Tensor:
        seen.append(batch)
        return batch.float().mean((2, 3))

    net = LegacyInception(extractor)
    features = net.features(torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1).expand(-1, -1, 32, 32))
    assert seen[0].shape == (2, 3, 32, 32) and seen[0].dtype == torch.uint8
    assert np.array_equal(features, [[0.0] * 3, [255.0] * 3]) and net.name == "inception-legacy"


def test_a_file_that_is_named_must_be_the_published_one(digits: DataSet, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(UserError, match=r"evaluation\.inception: cannot read .*none.pt: No such file"):
        load_features("inception", digits, store, files=FeatureFiles(str(tmp_path / "none.pt")))
    (tmp_path / "other.pt").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"other.pt is not inception-2015-12-05.pt with sha256 f58cb9b6"):
        load_features("inception-legacy", digits, store, files=FeatureFiles(str(tmp_path / "other.pt")))


def test_inception_out_of_reach_says_where_to_put_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(url: str) -> bytes:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(inception, "_download", unreachable)
    with pytest.raises(UserError, match=r"no network.*put that file.*sha256.*into .*"):
        inception.load(Store(str(tmp_path)))


def test_inception_runs_no_program_but_the_published_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    store.write(inception.WEIGHTS, b"something else")
    monkeypatch.setattr(inception, "_download", lambda url: b"something else again")
    with pytest.raises(UserError, match="sha256"):
        inception.load(store)
