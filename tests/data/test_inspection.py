"""`msd-ray data`: counts, mean and deviation against numpy, broken images; Parquet that is read back bit for bit."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from msd_ray.cli import main
from msd_ray.data import DataConfig, load_data

from .formats import CLASSES, ENCODED, KINDS, LABELS, N, images, png, written


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["msd-ray", "data", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


Run = Any


@pytest.fixture
def data(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    return lambda *arguments: run(capsys, monkeypatch, *arguments)


def with_broken(where: Path) -> tuple[list[str], torch.Tensor, np.ndarray]:
    """The arguments for a set of which two images are broken, and what is left."""
    content = [png(each) for each in images("parquet")]
    content[3], content[30] = b"", content[30][:50]
    good = np.setdiff1d(np.arange(N), [3, 30])
    config = ENCODED["parquet"](where, content, LABELS)
    return ["--name", "parquet", "--folder", config.folder], torch.from_numpy(images("parquet")[good]), LABELS[good]


def test_inspect_tells_counts_and_moments_of_what_is_not_broken(data: Run, tmp_path: Path) -> None:
    arguments, x, y = with_broken(tmp_path)
    code, out, _ = data("inspect", *arguments, "--json")
    told = json.loads(out)
    seen = x.double() / 127.5 - 1
    assert code == 0 and told["counts"] == {str(i): int((y == i).sum()) for i in range(CLASSES)}
    assert told["shape"] == [3, 8, 8] and told["fingerprint"]
    assert told["mean"] == pytest.approx(seen.mean((0, 2, 3)).tolist(), abs=1e-7)
    assert told["std"] == pytest.approx(seen.std((0, 2, 3), correction=0).tolist(), abs=1e-7)
    assert told["total_std"] == pytest.approx(float(seen.std(correction=0)), abs=1e-7)
    assert told["sigma_data"] == round(told["total_std"], 2)
    assert [said.split()[0] for said in told["broken"]] == ["3.png", "30.png"]
    code, out, _ = data("inspect", *arguments)
    assert code == 0 and "2 broken images were skipped:" in out and "3.png cannot be decoded" in out
    assert f"this suggests noise.sigma_data={told['sigma_data']}" in out and "38" in out


def test_inspect_of_a_recipe_and_of_points(data: Run) -> None:
    code, out, _ = data("inspect", "toy2d", "data.classes=4", "--json")
    told = json.loads(out)
    assert code == 0 and told["counts"] == {f"ring {i}": 2048 for i in range(4)} and told["shape"] == [2]
    x = load_data(DataConfig("toy2d", options={"classes": 4})).train.all().x.double()
    assert told["std"] == pytest.approx(x.std(0, correction=0).tolist(), abs=1e-9)


def test_a_sheet_shows_samples_of_each_class_in_a_row(data: Run, tmp_path: Path) -> None:
    config, x, y = written("edm-zip", tmp_path)
    sheet = tmp_path / "sheet.png"
    code, _, _ = data("inspect", "--name", "edm-zip", "--folder", config.folder, "-o", str(sheet))
    pixels = np.asarray(Image.open(sheet))
    scale = 48 // 8
    first = pixels[: 8 * scale : scale, : 8 * scale : scale]
    assert code == 0 and np.array_equal(first, x[np.flatnonzero(y == 0)[0]].transpose(1, 2, 0))
    assert pixels.shape == ((CLASSES * 9 - 1) * scale, (10 * 9 - 1) * scale, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_converted_images_are_read_back_bit_for_bit(kind: str, data: Run, tmp_path: Path) -> None:
    config, x, y = written(kind, tmp_path)
    to = tmp_path / "converted.parquet"
    options = [f"{key}={json.dumps(value)}" for key, value in config.options.items() if value not in (None, "", ())]
    code, out, err = data("convert", "--name", config.name, "--folder", config.folder, *options, "-o", str(to))
    assert code == 0, err
    assert f"{N} images in" in out
    again = load_data(DataConfig("parquet", str(to)))
    assert torch.equal(again.train.rows.take(np.arange(N)), torch.from_numpy(x)) and again.shape == x.shape[1:]
    assert again.train.classes.tolist() == y.tolist() and again.labels == load_data(config).labels


def test_what_is_converted_is_preprocessed_and_the_file_names_how(data: Run, tmp_path: Path) -> None:
    arguments, x, y = with_broken(tmp_path)
    to = tmp_path / "elsewhere" / "small.parquet"
    to.parent.mkdir()
    code, out, _ = data("convert", *arguments, "size=4", "preprocessing=squeeze", "-o", str(to), "--json")
    assert code == 0 and json.loads(out) == {"output": str(to), "images": len(x), "broken": 2}
    again = load_data(DataConfig("parquet", str(to))).train
    asked = DataConfig("parquet", arguments[3], {"size": 4, "preprocessing": "squeeze"})
    wanted = load_data(asked).train.rows.take(np.setdiff1d(np.arange(N), [3, 30]))
    assert torch.equal(again.rows.take(np.arange(len(x))), wanted) and again.classes.tolist() == y.tolist()
    said = json.loads(pq.read_schema(to).metadata[b"msd_ray"])
    assert said["data"]["options"]["preprocessing"] == "squeeze" and said["shape"] == [3, 4, 4]
    assert [path.name for path in to.parent.iterdir()] == ["small.parquet"]


def test_a_part_that_is_held_out_can_be_converted_too(data: Run, tmp_path: Path) -> None:
    config, x, _ = written("cifar", tmp_path)
    to = tmp_path / "test.parquet"
    code, _, _ = data("convert", "--name", "cifar", "--folder", config.folder, "--split", "held_out", "-o", str(to))
    rows = load_data(DataConfig("parquet", str(to))).train.rows
    assert code == 0 and torch.equal(rows.take(np.arange(len(rows))), torch.from_numpy(x[: len(rows)]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect"], "say which data set: a recipe, or --name and --folder"),
        (["inspect", "digits", "--folder", "/data"], "say which data set: a recipe, or --name and --folder"),
        (["inspect", "digits", "--name", "idx", "--folder", "/data"], "'digits' is not of the form key=value"),
        (["inspect", "--name", "ixd"], "there is no data set 'ixd', only digits"),
        (["inspect", "--name", "idx", "--folder", "/data", "sized=3"], "unknown key data.options.sized; did you mean"),
        (["inspect", "toy2d", "-o", "sheet.png"], "toy2d has points, of which there is no sheet"),
        (["inspect", "digits", "-o", "sheet.jpg"], "give the path of a .png file in a folder that exists"),
        (["convert", "digits", "-o", "none/x.parquet"], "give the path of a .parquet file in a folder that exists"),
        (["convert", "digits", "-o", "x.parquet"], "digits has no images of 8 bits"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line_and_nothing_is_written(
    arguments: list[str], message: str, data: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = data(*arguments)
    assert code == 2 and not out and message in err and err.count("\n") == 1 and not list(tmp_path.iterdir())
