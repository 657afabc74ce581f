"""Broken images are skipped and named; what is worse than broken, and sets that are none, are refused in one line."""

import io
import json
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from msd_ray.data import DataConfig, edm_zip, load_data
from msd_ray.errors import UserError

from .formats import ENCODED, LABELS, N, images, png

WHOLE = [png(each) for each in images("folder")]
BAD = {5: b"", 11: WHOLE[11][:90], 12: b"<html>404</html>", 20: WHOLE[20][:60] + b"\0" * 40}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def with_bad(bad: dict[int, bytes]) -> list[bytes]:
    return [bad.get(i, content) for i, content in enumerate(WHOLE)]


@pytest.mark.parametrize("kind", ENCODED)
def test_the_next_image_of_the_class_takes_the_place_of_a_broken_one(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    y = np.sort(LABELS) if kind == "folder" else LABELS
    bad = {index: content for index, content in BAD.items() if content or kind != "webdataset"}
    train = load_data(ENCODED[kind](tmp_path, with_bad(bad), y)).train
    x = torch.from_numpy(images(kind))
    for index, content in enumerate(train.rows.take(np.arange(N))):
        others = [*range(index, N), *range(index)]
        assert torch.equal(content, x[next(i for i in others if y[i] == y[index] and i not in bad)])
    assert sorted(train.broken) == sorted(bad)
    assert all(f"skipped a broken image: {said}" in caplog.text for said in train.broken.values())


def test_only_the_first_are_named_in_the_log_and_all_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    big = [WHOLE[i % N] for i in range(400)]
    bad = range(0, 400, 20)
    config = ENCODED["parquet"](tmp_path, [b"" if i in bad else each for i, each in enumerate(big)], np.arange(400) % 3)
    train = load_data(config).train
    train.all()
    assert len(train.broken) == 20 and caplog.text.count("skipped a broken image") == 10
    assert "more broken images will only be counted" in caplog.text


def test_a_class_of_broken_images_is_told(tmp_path: Path) -> None:
    bad = dict.fromkeys(np.flatnonzero(LABELS == 3).tolist(), b"")
    with pytest.raises(UserError, match="class 3 has no image that is not broken"):
        load_data(ENCODED["parquet"](tmp_path, with_bad(bad), LABELS))


def bomb() -> bytes:
    """A PNG that says it has 30,000 x 30,000 pixels."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = (30000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("kind", ENCODED)
@pytest.mark.parametrize(
    ("content", "message"), [(bomb(), "30000 x 30000 pixels|more than .* pixels"), (LFS, "is a pointer of git LFS")]
)
def test_what_is_worse_than_broken_is_refused(kind: str, content: bytes, message: str, tmp_path: Path) -> None:
    y = np.sort(LABELS) if kind == "folder" else LABELS
    with pytest.raises(UserError, match=message) as refused:
        load_data(ENCODED[kind](tmp_path, with_bad({0: content}), y))
    assert "\n" not in str(refused.value)


def zipped(**entries: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name.replace("__", "/"), content)
    return file.getvalue()


LABELS_OF_ONE = json.dumps({"labels": [["a.png", 0]]}).encode()
GOOD = zipped(**{"a.png": WHOLE[0], "dataset.json": LABELS_OF_ONE})
ZIPS: dict[str, tuple[bytes, str]] = {
    "a file outside": (
        zipped(**{"../a.png": b"", "dataset.json": b"{}"}),
        "names a file outside of itself, '../a",
    ),
    "an absolute path": (zipped(**{"/etc/a.png": b"", "dataset.json": b"{}"}), "names a file outside of itself, '/etc"),
    "no labels": (zipped(**{"a.png": WHOLE[0]}), "has no dataset.json"),
    "no image": (zipped(**{"dataset.json": LABELS_OF_ONE}), "has no image"),
    "no class": (zipped(**{"b.png": WHOLE[0], "dataset.json": LABELS_OF_ONE}), "gives no class for b.png"),
    "no JSON": (zipped(**{"a.png": WHOLE[0], "dataset.json": b"{"}), 'is not {"labels":'),
    "other JSON": (zipped(**{"a.png": WHOLE[0], "dataset.json": b"[]"}), 'is not {"labels":'),
    "a class below 0": (zipped(**{"a.png": WHOLE[0], "dataset.json": b'{"labels":[["a.png",-1]]}'}), "not -1"),
    "a class that is a name": (zipped(**{"a.png": b"", "dataset.json": b'{"labels":[["a.png","cat"]]}'}), "not 'cat'"),
    "a bomb": (
        zipped(**{"a.png": b"\0" * (300 << 20), "dataset.json": LABELS_OF_ONE}),
        "a.png unpacks to 314572800 bytes",
    ),
    "cut short": (GOOD[:-30], "is no zip, or was cut short"),
    "a pointer": (LFS, "is a pointer of git LFS"),
    "HTML": (b"<html>", "is no zip, or was cut short"),
    "nothing": (b"", "is no zip, or was cut short"),
}


@pytest.mark.parametrize(("content", "message"), ZIPS.values(), ids=ZIPS)
def test_a_zip_that_is_none_is_refused(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edm_zip, "LARGEST", 10_000)
    monkeypatch.setattr(edm_zip, "LARGEST_LABELS", 40_000)
    (tmp_path / "set.zip").write_bytes(content)
    refused_by(DataConfig("edm-zip", str(tmp_path / "set.zip")), message)


def test_a_zip_without_classes_is_of_one_and_what_is_held_out_may_have_fewer(tmp_path: Path) -> None:
    for name, labels in (("all", b'{"labels": null}'), ("ones", b'{"labels": [["a.png", 0], ["b.png", 1]]}')):
        (tmp_path / f"{name}.zip").write_bytes(zipped(**{"a.png": WHOLE[0], "b.png": WHOLE[1], "dataset.json": labels}))
    (tmp_path / "few.zip").write_bytes(GOOD)
    assert load_data(DataConfig("edm-zip", str(tmp_path / "all.zip"))).labels == ("all",)
    data = load_data(DataConfig("edm-zip", str(tmp_path / "ones.zip"), {"held_out": str(tmp_path / "few.zip")}))
    assert data.labels == ("0", "1") and data.held_out.classes.tolist() == [0]
    assert torch.equal(data.held_out.all().x, data.train.all().x[:1])


def test_classes_that_are_held_out_are_those_of_the_same_name(tmp_path: Path) -> None:
    for name, classes in (("train", ["ant", "bee", "cat"]), ("val", ["cat", "ant"]), ("other", ["dog"])):
        for i, each in enumerate(classes):
            (tmp_path / name / each).mkdir(parents=True)
            (tmp_path / name / each / "1.png").write_bytes(WHOLE[i])
    data = load_data(DataConfig("folder", str(tmp_path / "train"), {"held_out": str(tmp_path / "val")}))
    assert data.labels == ("ant", "bee", "cat") and data.held_out.classes.tolist() == [0, 2]
    config = DataConfig("folder", str(tmp_path / "train"), {"held_out": str(tmp_path / "other")})
    refused_by(config, "there is no image of class dog to train on")


def refused_by(config: DataConfig, message: str) -> None:
    with pytest.raises(UserError) as refused:
        load_data(config)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def table(**columns: Any) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pa.table(columns), path)


def cut(path: Path) -> None:
    table(image=WHOLE, label=LABELS)(path)
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (table(image=WHOLE), "has no column 'label', only image"),
        (table(image=WHOLE, label=["a"] * N), "the column 'label' must hold integers, not string"),
        (table(image=list(range(N)), label=LABELS), "must hold bytes, or struct<bytes, path>, not int64"),
        (table(image=WHOLE, label=[None, *LABELS[1:].tolist()]), "an image has no 'label'"),
        (table(image=pa.array([], pa.binary()), label=pa.array([], pa.int64())), "has no row"),
        (cut, "is no Parquet file, or was cut short"),
        (lambda path: path.write_bytes(LFS), "is a pointer of git LFS"),
        (lambda path: path.write_bytes(b""), "is no Parquet file, or was cut short"),
    ],
)
def test_a_parquet_that_is_none_is_refused(write: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    refused_by(DataConfig("parquet", str(tmp_path)), message)


def tarred(**entries: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in entries.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


SHARD = tarred(**{"a.png": WHOLE[0], "a.cls": b"0", "b.png": WHOLE[1], "b.cls": b"0"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tarred(**{"a.png": WHOLE[0]}), "a has no class"),
        (tarred(**{"a.cls": b"0"}), "a has no image"),
        (tarred(**{"a.png": WHOLE[0], "a.cls": b"cat"}), "is no tar of samples, or was cut short (Expecting value"),
        (tarred(**{"a.png": WHOLE[0], "a.json": b'{"label": -3}'}), "classes are whole numbers from 0 on, not -3"),
        (tarred(), "has no sample"),
        (SHARD[:700], "is no tar of samples, or was cut short"),
        (SHARD[:1024] + b"x" * 512 + SHARD[1536:], "is no tar of samples, or was cut short"),
        (b"<html>" * 200, "is no tar of samples, or was cut short"),
        (LFS, "is a pointer of git LFS"),
    ],
)
def test_a_shard_that_is_none_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    refused_by(DataConfig("webdataset", str(tmp_path)), message)


def test_images_of_other_sizes_are_refused_before_anything_trains(tmp_path: Path) -> None:
    odd = [png(np.zeros((3, 8, 8 + i), np.uint8)) for i in range(N)]
    config = ENCODED["folder"](tmp_path, odd, np.sort(LABELS))
    refused_by(config, "cannot be used, first class 0/001.png has 8 x 9 pixels, not 8 x 8; choose data.options.prep")
    assert load_data(DataConfig("folder", config.folder, options={"size": 8, "preprocessing": "squeeze"})).shape == (
        3,
        8,
        8,
    )
