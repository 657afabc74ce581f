import logging
import random
from pathlib import Path

import pytest
import torch
from pyarrow import fs

from msd_ray.errors import CorruptError
from msd_ray.networks.weights import from_chunks
from msd_ray.storage import MANIFEST, Chunks, Store
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.state import State

torch.set_num_threads(1)


def state(nimg: int) -> State:
    rng = torch.Generator().manual_seed(nimg)
    shared = torch.randn(4, 3, generator=rng)
    generator = {"w": shared, "tied": shared, "view": shared.t(), "row": shared[1], "step": torch.tensor(float(nimg))}
    optimizer = {"0.step": torch.tensor(3), "0.exp_avg": torch.randn(5, generator=rng).bfloat16()}
    return State({"generator": generator, "optimizer": optimizer, "head": {}}, {"nimg": nimg, "metrics": [["a", 0.1]]})


def same(a: State | None, b: State) -> bool:
    return a is not None and a.meta == b.meta and equal_tensors(a, b)


def equal_tensors(a: State, b: State) -> bool:
    return a.tensors.keys() == b.tensors.keys() and all(
        tensors.keys() == b.tensors[part].keys()
        and all(torch.equal(t, b.tensors[part][n]) and t.dtype == b.tensors[part][n].dtype for n, t in tensors.items())
        for part, tensors in a.tensors.items()
    )


@pytest.fixture(params=["local", "object store"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(str(tmp_path)) if request.param == "local" else Store("bucket", fs._MockFileSystem())


def names(*nimgs: int) -> list[str]:
    return [f"ckpt-{nimg:012d}" for nimg in nimgs]


def test_there_is_none_at_first(store: Store) -> None:
    assert Checkpoints(store, 2).latest() is None


def test_the_latest_is_what_was_saved_and_only_the_newest_are_kept(store: Store) -> None:
    checkpoints = Checkpoints(store, 2)
    for nimg in (0, 64, 128, 192):
        checkpoints.save(state(nimg))
        assert same(checkpoints.latest(), state(nimg))
    assert store.names() == names(128, 192)


def test_saving_again_at_the_same_image_replaces_it(store: Store) -> None:
    checkpoints = Checkpoints(store, 1)
    checkpoints.save(State({"old": {}}, {"nimg": 64}))
    checkpoints.save(state(64))
    assert same(checkpoints.latest(), state(64))
    assert store.child(names(64)[0]).names() == sorted(
        [MANIFEST, "generator.safetensors", "head.safetensors", "optimizer.safetensors", "state.json"]
    )


def test_torn_ones_are_skipped_with_a_warning_and_go_once_a_newer_one_is_complete(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(store, 2)
    checkpoints.save(state(64))
    for nimg in (32, 128, 512):
        store.child(names(nimg)[0]).write("generator.safetensors", b"half")
    with caplog.at_level(logging.WARNING):
        assert same(checkpoints.latest(), state(64))
    first, second = (record.getMessage() for record in caplog.records)
    assert "ckpt-000000000512" in first and first.endswith("never completed; trying ckpt-000000000128")
    assert "ckpt-000000000128" in second and second.endswith("trying ckpt-000000000064")
    checkpoints.save(state(256))
    assert store.names() == names(64, 256, 512)


def test_a_damaged_newer_one_does_not_push_out_the_one_just_saved(store: Store) -> None:
    checkpoints = Checkpoints(store, 1)
    checkpoints.save(state(256))
    store.child(names(256)[0]).write("head.safetensors", b"")
    checkpoints.save(state(128))
    assert same(checkpoints.latest(), state(128))


def test_strangers_are_left_alone(store: Store) -> None:
    store.write("notes.txt", b"")
    store.child("ckpt-final").write("x", b"")
    Checkpoints(store, 1).save(state(64))
    assert store.names() == [*names(64), "ckpt-final", "notes.txt"]
    assert same(Checkpoints(store, 1).latest(), state(64))


def test_a_kill_between_any_two_writes_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    checkpoints = Checkpoints(store, 1)
    checkpoints.save(state(64))
    write = Store.write_chunks
    for survived in range(5):
        calls: list[str] = []

        def dying(self: Store, name: str, data: Chunks, calls: list[str] = calls, survived: int = survived) -> None:
            if len(calls) == survived:
                raise KeyboardInterrupt
            calls.append(name)
            write(self, name, data)

        monkeypatch.setattr(Store, "write_chunks", dying)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(state(128))
        monkeypatch.undo()
        assert same(checkpoints.latest(), state(64))
    checkpoints.save(state(128))
    assert store.names() == names(128)


def test_a_removal_cut_short_leaves_nothing_that_could_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    checkpoints = Checkpoints(store, 1)
    checkpoints.save(state(64))
    delete = Store.delete

    def dying(self: Store, name: str) -> None:
        if name == names(64)[0]:
            raise KeyboardInterrupt
        delete(self, name)

    monkeypatch.setattr(Store, "delete", dying)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(state(128))
    monkeypatch.undo()
    assert not store.child(names(64)[0]).exists(MANIFEST)
    assert same(checkpoints.latest(), state(128))


def test_any_damage_to_the_newest_means_that_the_older_one_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, rng = Store(str(tmp_path)), random.Random(0)
    checkpoints = Checkpoints(store, 2)
    checkpoints.save(state(64))
    checkpoints.save(state(128))
    newest = store.child(names(128)[0])
    for trial in range(100):
        name = newest.names()[trial % 5]
        intact = newest.read(name)
        at = rng.randrange(len(intact))
        flipped = intact[:at] + bytes([intact[at] ^ rng.randrange(1, 256)]) + intact[at + 1 :]
        newest.write(name, rng.choice([intact[:at], flipped]))
        caplog.clear()
        assert same(checkpoints.latest(), state(64)), (trial, name, at)
        (record,) = caplog.records
        assert name in record.getMessage() and "\n" not in record.getMessage()
        newest.write(name, intact)
    assert same(checkpoints.latest(), state(128))


@pytest.mark.parametrize("data", [b"", b"\0" * 8, b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]", b"\x80\x04K\x01."])
def test_what_is_not_safetensors_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptError, match="weights of x is not a safetensors file"):
        from_chunks([data], "weights of x")


def test_at_least_one_is_kept(store: Store) -> None:
    with pytest.raises(ValueError, match="keep"):
        Checkpoints(store, 0)
