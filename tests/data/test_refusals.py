"""Data that do not fit: `msd-ray train` says so in one line and exits with 2 before anything trains."""

import gzip
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from msd_ray.cli import main
from msd_ray.data import DataConfig
from msd_ray.teachers.sources import SOURCES

from .formats import CLASSES, LABELS, Images, arrays, cifar, edm_zip, folder, idx, png

NETWORK = {"kind": "unet", "channels": 4, "multipliers": [1], "blocks": 1, "attention": []}


class Colour:
    """A teacher of four classes of colour images of 8 x 8 pixels."""

    fingerprint, sample_shape, classes, parameters, spec = "colour", (3, 8, 8), CLASSES, 1, None

    def open(self, device: torch.device) -> Any:
        pytest.fail("nothing should be trained")

    def weights(self) -> None:
        return None


def images(channels: int = 3, side: int = 8) -> Images:
    return np.random.default_rng(0).integers(0, 256, (40, channels, side, side), dtype=np.uint8)


def pngs(x: Images) -> list[bytes]:
    return [png(each) for each in x]


def without_a_class(where: Path) -> DataConfig:
    (where / "class 9").mkdir()
    return folder(where, pngs(images()), np.sort(LABELS))


def wrong_magic(where: Path) -> DataConfig:
    config = idx(where, images(1), LABELS)
    (where / "train-images-idx3-ubyte").write_bytes(b"\0\0\x0d\x03" + bytes(2572))
    return config


def truncated(where: Path) -> DataConfig:
    config = idx(where, images(1), LABELS)
    plain = where / "train-images-idx3-ubyte"
    plain.with_name(f"{plain.name}.gz").write_bytes(gzip.compress(plain.read_bytes())[:900])
    plain.unlink()
    return config


def slipping(where: Path) -> DataConfig:
    with zipfile.ZipFile(where / "set.zip", "w") as archive:
        archive.writestr("../../a.png", png(images()[0]))
        archive.writestr("dataset.json", json.dumps({"labels": [["../../a.png", 0]]}))
    return DataConfig("edm-zip", str(where / "set.zip"))


def pointer(where: Path) -> DataConfig:
    (where / "set.zip").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    return DataConfig("edm-zip", str(where / "set.zip"))


def no_folder(where: Path) -> DataConfig:
    return DataConfig("parquet", str(where / "none"))


CASES: list[tuple[Callable[[Path], DataConfig], str]] = [
    (without_a_class, "class 4 class 9 has no image"),
    (
        lambda where: edm_zip(where, pngs(images()), np.arange(40) % 5),
        "knows 4 conditions, the data have 5; choose",
    ),
    (
        lambda where: edm_zip(where, pngs(images(1)), LABELS),
        "of shape [3, 8, 8], the data have [1, 8, 8]; set data",
    ),
    (lambda where: idx(where, images(1), LABELS), "of shape [3, 8, 8], the data have [1, 8, 8]"),
    (lambda where: arrays(where, images(3, 16), LABELS), "of shape [3, 8, 8], the data have [3, 16, 16]"),
    (lambda where: cifar(where, images(3, 32), LABELS), "of shape [3, 8, 8], the data have [3, 32, 32]"),
    (wrong_magic, "is no IDX file of images: it begins with 00000d03, not 00000803"),
    (truncated, "train-images-idx3-ubyte.gz cannot be unpacked"),
    (slipping, "names a file outside of itself, '../../a.png'; do not trust it"),
    (pointer, "is a pointer of git LFS, not the file itself; run `git lfs pull`"),
    (no_folder, "data.folder: there is no *.parquet in"),
]


@pytest.mark.parametrize(("write", "message"), CASES)
def test_it_is_told_before_anything_trains(
    write: Callable[[Path], DataConfig],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "data").mkdir()
    config = write(tmp_path / "data")
    monkeypatch.setitem(SOURCES, "colour", Colour)
    monkeypatch.chdir(tmp_path)
    said = {
        "name": config.name,
        "folder": config.folder,
        "options": {"held_out": "none"} if config.name == "idx" else {},
    }
    stages = {"dm": {"objective": "dm", "images": 32, "batch": 8}}
    recipe = {"name": "x", "data": said, "network": NETWORK, "teacher": {"source": "colour"}, "stages": stages}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(sys, "argv", ["msd-ray", "train", "x.yaml", "partition.k=2", "partition.kind=sequential"])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and not out and message in err and err.count("\n") == 1, err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "x.yaml"]
