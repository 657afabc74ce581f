"""IDX files, packed or not: the samples that were written, borders, splits, and files that are none in one line."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from msd_ray.data import DataConfig, load_data
from msd_ray.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (30, 7, 7), dtype=np.uint8)
LABELS = (np.arange(30) % 3).astype(np.uint8)


def idx(array: np.ndarray) -> bytes:
    """As the format is described: 0, 0, 8 for unsigned bytes, the number of dimensions, each of them, the bytes."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(where: Path, name: str, content: bytes, packed: bool = True) -> None:
    (where / (name + ".gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)


@pytest.fixture(params=[True, False], ids=["packed", "plain"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    for split, images, labels in (("train", IMAGES, LABELS), ("t10k", IMAGES[:6], LABELS[:6])):
        write(tmp_path, f"{split}-images-idx3-ubyte", idx(images), request.param)
        write(tmp_path, f"{split}-labels-idx1-ubyte", idx(labels), request.param)
    return tmp_path


def test_samples_are_read_back_bit_for_bit(folder: Path) -> None:
    data = load_data(DataConfig("idx", str(folder)))
    assert data.shape == (1, 7, 7) and data.labels == ("0", "1", "2")
    assert torch.equal(data.train.rows.take(np.arange(30)), torch.from_numpy(IMAGES)[:, None])
    assert torch.equal(data.train.all().x, torch.from_numpy(IMAGES)[:, None].float() / 127.5 - 1)
    assert torch.equal(data.train.classes, torch.from_numpy(LABELS).long())
    assert torch.equal(data.held_out.all().x, data.train.all().x[:6])


def test_a_border_is_black_and_one_pixel_more_at_the_end_where_it_is_uneven(folder: Path) -> None:
    data = load_data(DataConfig("idx", str(folder), options={"size": 10}))
    expected = np.zeros((30, 1, 10, 10), dtype=np.uint8)
    expected[:, 0, 1:8, 1:8] = IMAGES
    assert data.shape == (1, 10, 10)
    assert torch.equal(data.train.rows.take(np.arange(30)), torch.from_numpy(expected))


def test_the_split_that_is_held_out_and_names(folder: Path) -> None:
    names = ["coat", "bag", "shirt"]
    data = load_data(DataConfig("idx", str(folder), options={"held_out": "train", "labels": names}))
    assert (len(data.train), len(data.held_out), data.labels) == (6, 30, ("coat", "bag", "shirt"))
    assert len(load_data(DataConfig("idx", str(folder), options={"held_out": "none"})).held_out) == 0
    with pytest.raises(UserError, match="train-labels: class 3 sock has no image"):
        load_data(DataConfig("idx", str(folder), options={"labels": [*names, "sock"]}))
    with pytest.raises(UserError, match="images of 7 x 7 get no border to 6 x 6"):
        load_data(DataConfig("idx", str(folder), options={"size": 6}))


def test_fingerprints_tell_other_images_and_borders(folder: Path) -> None:
    marks = {load_data(DataConfig("idx", str(folder), options)).fingerprint for options in ({}, {"size": 8}, {})}
    assert len(marks) == 2


BOMB = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 2**15, 2**15)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(LABELS), "is no IDX file of images: it begins with 00000801, not 00000803"),
        (b"<html>not found</html>", "is no IDX file of images: it begins with 3c68746d"),
        (b"", "is no IDX file of images: it begins with , not"),
        (idx(IMAGES)[:-1], "has not the 30 x 49 bytes that it begins by naming; fetch it again"),
        (idx(IMAGES) + b"x", "has not the 30 x 49 bytes"),
        (BOMB, "has not the 2147483648 x 1073741824 bytes"),
        (idx(IMAGES[:29]), "has 30 labels for 29 images"),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(content: bytes, message: str, packed: bool, tmp_path: Path) -> None:
    write(tmp_path, "train-images-idx3-ubyte", content, packed)
    write(tmp_path, "train-labels-idx1-ubyte", idx(LABELS))
    with pytest.raises(UserError, match=message) as refused:
        load_data(DataConfig("idx", str(tmp_path), options={"held_out": "none"}))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kept", [10, 200, -4])
def test_a_packed_file_that_is_cut_short_is_told(kept: int, tmp_path: Path) -> None:
    write(tmp_path, "train-labels-idx1-ubyte", idx(LABELS))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES))[:kept])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte.gz (cannot be unpacked|has not)"):
        load_data(DataConfig("idx", str(tmp_path), options={"held_out": "none"}))


def test_a_pointer_of_git_lfs_is_told(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(LFS)
    with pytest.raises(UserError, match=r"ubyte\.gz is a pointer of git LFS, not the file itself; run `git lfs pull`"):
        load_data(DataConfig("idx", str(tmp_path), options={"held_out": "none"}))


def test_a_missing_folder_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no train-images-idx3-ubyte in .*/none, packed \(.gz\) or not"):
        load_data(DataConfig("idx", str(tmp_path / "none")))
