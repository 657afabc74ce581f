"""What all formats share: the samples that were written come back bit for bit, by index, of the classes asked for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import fs

from msd_ray.data import DataConfig, load_data
from msd_ray.errors import UserError
from msd_ray.storage import store as stores
from msd_ray.training.reading import Reader

from .formats import CLASSES, KINDS, LABELS, N, images, made, written


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_is_read_back_bit_for_bit(kind: str, tmp_path: Path) -> None:
    config, x, y = written(kind, tmp_path)
    data = load_data(config)
    raw = data.train.rows.take(np.arange(N))
    assert data.shape == x.shape[1:] and data.classes == CLASSES
    assert raw.dtype == torch.uint8 and torch.equal(raw, torch.from_numpy(x))
    assert torch.equal(data.train.classes, torch.from_numpy(y))
    seen = data.train.all().x
    assert seen.dtype == torch.float32 and torch.equal(seen, torch.from_numpy(x).float() / 127.5 - 1)
    assert torch.equal(((seen + 1) * 127.5).round().to(torch.uint8), raw)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_read_by_index_and_those_of_a_class_without_the_others(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, x, y = written(kind, tmp_path)
    train = load_data(config).train
    some = train.take(torch.tensor([N - 1, 0, 0, 7]))
    assert torch.equal(some.x, torch.from_numpy(x[[N - 1, 0, 0, 7]]).float() / 127.5 - 1)
    assert some.condition.tolist() == y[[N - 1, 0, 0, 7]].tolist()
    read = set[int]()
    take = type(train.rows).take
    monkeypatch.setattr(type(train.rows), "take", lambda self, i: (read.update(i.tolist()), take(self, i))[1])
    own = train.only([1, 3]).all()
    assert set(own.condition.tolist()) == {1, 3} == set(y[list(read)].tolist())
    assert torch.equal(own.x, torch.from_numpy(x[np.isin(y, [1, 3])]).float() / 127.5 - 1)


@pytest.mark.parametrize("kind", KINDS)
def test_other_samples_have_another_fingerprint(kind: str, tmp_path: Path) -> None:
    first = load_data(written(kind, tmp_path)[0]).fingerprint
    assert first and first == load_data(written(kind, tmp_path)[0]).fingerprint
    x = images(kind)
    x[0] ^= 255
    (tmp_path / "other").mkdir()
    assert load_data(made(kind, tmp_path / "other", x, LABELS)[0]).fingerprint != first


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_is_not_there_is_told_in_one_line(kind: str, tmp_path: Path) -> None:
    config = written(kind, tmp_path)[0]
    with pytest.raises(UserError, match="there is no") as refused:
        load_data(replace(config, folder=str(tmp_path / "none" / Path(config.folder).name)))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_without_an_image_is_told_in_one_line(kind: str, tmp_path: Path) -> None:
    if kind == "folder":
        (tmp_path / "class 2").mkdir()
    config, _ = made(kind, tmp_path, images(kind), np.where(LABELS == 2, 3, LABELS))
    with pytest.raises(UserError, match=r"class 2.* has no image") as refused:
        load_data(config)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "arrays"])
def test_an_object_store_does_as_well_as_a_disk(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server: through the file system of pyarrow that stores of Google's and Azure's are used by."""
    config, x, _ = written(kind, tmp_path)
    elsewhere = stores.ArrowFiles(fs.LocalFileSystem())
    monkeypatch.setattr(stores, "_resolve", lambda uri: (elsewhere, uri))
    monkeypatch.setattr(stores, "LocalFiles", None)
    assert torch.equal(load_data(config).train.rows.take(np.arange(N)), torch.from_numpy(x))


def test_flips_mirror_half_of_the_images_and_follow_from_the_stream(tmp_path: Path) -> None:
    config, x, y = written("edm-zip", tmp_path)
    plain, flipped = (load_data(replace(config, flip=flip)) for flip in (False, True))
    numbers, device = torch.arange(N), torch.device("cpu")
    taken = [Reader(flipped.train, device).take(numbers, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    seen = torch.from_numpy(x).float() / 127.5 - 1
    mirrored = (taken[0].x == seen.flip(-1)).flatten(1).all(1)
    assert ((taken[0].x == seen).flatten(1).all(1) ^ mirrored).all() and N // 4 < int(mirrored.sum()) < 3 * N // 4
    assert torch.equal(taken[0].x, taken[1].x) and not torch.equal(taken[0].x, taken[2].x)
    assert taken[0].condition.tolist() == y.tolist()
    rng = torch.Generator().manual_seed(0)
    assert torch.equal(Reader(plain.train, device).take(numbers, rng).x, seen)
    assert torch.equal(rng.get_state(), torch.Generator().manual_seed(0).get_state())  # nothing was drawn
    assert torch.equal(flipped.train.all().x, seen)  # references are not mirrored
    with pytest.raises(UserError, match=r"only images can be mirrored, and toy2d has samples of \[2\]"):
        load_data(DataConfig("toy2d", flip=True))
