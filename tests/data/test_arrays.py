"""Images in numpy files: the same samples as in memory, only those that are asked for, bad folders in one line."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msd_ray.data import DataConfig, load_data
from msd_ray.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 3, 4, 4), dtype=np.uint8)
LABELS = np.arange(40) % 5


def folder(where: Path, **arrays: Any) -> DataConfig:
    for name, array in ({"images": IMAGES, "labels": LABELS} | arrays).items():
        if array is not None:
            np.save(where / f"{name}.npy", array)
    return DataConfig(name="arrays", folder=str(where))


def test_samples_are_those_of_the_files_in_the_range_that_networks_see(tmp_path: Path) -> None:
    data = load_data(folder(tmp_path, held_out_images=IMAGES[:7], held_out_labels=LABELS[:7]))
    assert data.shape == (3, 4, 4) and data.labels == ("0", "1", "2", "3", "4")
    assert len(data.train) == 40 and len(data.held_out) == 7
    assert torch.equal(data.train.all().x, torch.from_numpy(IMAGES).float() / 127.5 - 1)
    assert torch.equal(data.train.classes, torch.from_numpy(LABELS))
    chosen = data.train.take(torch.tensor([39, 0, 0, 3]))
    assert torch.equal(chosen.x, data.train.all().x[[39, 0, 0, 3]]) and chosen.condition.tolist() == [4, 0, 0, 3]


def test_a_part_reads_none_but_its_own_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = load_data(folder(tmp_path)).train.only(torch.tensor([1, 3]))
    read: list[int] = []
    take = type(own.rows).take
    monkeypatch.setattr(type(own.rows), "take", lambda self, i: (read.extend(i.tolist()), take(self, i))[1])
    assert set(own.classes.tolist()) == {1, 3} and len(own) == 16
    assert set(own.all().condition.tolist()) == {1, 3}
    own.take(torch.tensor([0, 15]))
    assert {LABELS[i] for i in read} == {1, 3}
    assert own.only(torch.tensor([3])).classes.tolist() == [3] * 8


def test_an_opened_file_travels_to_another_process(tmp_path: Path) -> None:
    train = load_data(folder(tmp_path)).train
    train.take(torch.tensor([0]))
    again = pickle.loads(pickle.dumps(train))
    assert torch.equal(again.take(torch.tensor([5])).x, train.take(torch.tensor([5])).x)


def test_names_of_classes_may_lie_beside_them(tmp_path: Path) -> None:
    config = folder(tmp_path)
    (tmp_path / "labels.txt").write_text("cat\ndog\nfox\nowl\nyak\n")
    assert load_data(config).labels == ("cat", "dog", "fox", "owl", "yak")


def test_other_images_or_labels_are_told_by_the_fingerprint(tmp_path: Path) -> None:
    first = load_data(folder(tmp_path)).fingerprint
    assert first and first == load_data(folder(tmp_path)).fingerprint
    others = IMAGES.copy()
    others[0, 0, 0, 0] ^= 1
    assert load_data(folder(tmp_path, images=others)).fingerprint != first
    assert load_data(folder(tmp_path, labels=LABELS[::-1].copy())).fingerprint != first


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": None}, "there is no .*images.npy"),
        ({"labels": None}, "there is no .*labels.npy"),
        ({"images": IMAGES.astype(np.float32)}, r"must hold uint8 \[N, C, H, W\] in C order, not float32"),
        ({"images": IMAGES[:, 0]}, r"must hold uint8 \[N, C, H, W\] in C order, not uint8 \[40, 4, 4\]"),
        ({"labels": LABELS[:39]}, "has 39 labels for 40 images"),
        ({"labels": LABELS.astype(float)}, "must hold integers"),
        ({"labels": LABELS - 1}, "classes are from 0 to 3, not -1 to 3"),
        ({"labels": LABELS * 2}, "class 1 has no image"),
        ({"held_out_images": IMAGES, "held_out_labels": LABELS + 9}, "held out has other shapes or classes"),
    ],
)
def test_a_folder_that_is_none_is_refused_in_one_line(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = folder(tmp_path, **arrays)
    with pytest.raises(UserError, match=message) as refused:
        load_data(config)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_array_or_is_cut_short_is_told(tmp_path: Path) -> None:
    config = folder(tmp_path)
    data = load_data(config)
    whole = (tmp_path / "images.npy").read_bytes()
    (tmp_path / "images.npy").write_bytes(whole[:-10])
    with pytest.raises(UserError, match=r"images\.npy is cut short: it has no image 39"):
        data.train.take(torch.tensor([39]))
    (tmp_path / "images.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match="cannot be read as a numpy array"):
        load_data(config)
