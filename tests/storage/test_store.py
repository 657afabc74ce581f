import errno
import fcntl
import os
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from msd_ray.errors import UserError
from msd_ray.storage import Change, Store
from msd_ray.storage import store as module
from msd_ray.storage.local_disk import TEMPORARY

ROOM = "free some space and run the same command again: complete files are not lost"


@pytest.fixture(params=["local", "object store", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return Store(request.getfixturevalue("s3").uri(f"bucket/{tmp_path.name}"))
    return Store(str(tmp_path / "run")) if request.param == "local" else Store("bucket/run", fs._MockFileSystem())


def test_what_is_written_is_read_back_and_the_last_write_wins(store: Store) -> None:
    child = store.child("a").child("b")
    child.write("x", b"old")
    child.write("x", b"new")
    child.write("empty", b"")
    assert (child.read("x"), child.read("empty")) == (b"new", b"")
    assert child.names() == ["empty", "x"]
    assert store.names() == ["a"]


def test_a_file_comes_and_goes_in_pieces(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    store.write_chunks("x", lambda: (b"one", memoryview(b"two-"), b"", b"three"))
    assert list(store.read_chunks("x")) == [b"onet", b"wo-t", b"hree"]
    assert store.read("x") == b"onetwo-three"
    with pytest.raises(FileNotFoundError):
        next(store.read_chunks("y"))


def test_a_range_of_a_file(store: Store) -> None:
    store.write("x", b"onetwo-three")
    ranges = [store.read_range("x", begin, size) for begin, size in ((0, 3), (3, 4), (7, 99), (12, 5), (50, 1), (4, 0))]
    assert ranges == [b"one", b"two-", b"three", b"", b"", b""]
    with pytest.raises(FileNotFoundError):
        store.read_range("y", 0, 1)


def test_reading_goes_on_where_it_failed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    store.write("x", b"onetwo-three")
    opened = store._files.opened
    positions: list[int] = []

    class FailsOnItsSecondRead:
        def __init__(self, file: Any) -> None:
            self.file, self.reads = file, 0

        def read(self, n: int) -> bytes:
            self.reads += 1
            if self.reads == 2:
                raise OSError(errno.EIO, "Input/output error")
            return bytes(self.file.read(n))

    def flaky(path: str, position: int) -> Any:
        positions.append(position)
        return FailsOnItsSecondRead(opened(path, position))

    monkeypatch.setattr(store._files, "opened", flaky)
    assert b"".join(store.read_chunks("x")) == b"onetwo-three"
    assert positions == [0, 4, 8, 12]


def test_what_the_pieces_raise_is_passed_on_and_leaves_the_old_file(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("x", b"old")

    def torn() -> Iterator[bytes]:
        yield b"new"
        raise KeyError("torn")

    with pytest.raises(KeyError, match="torn"):
        store.write_chunks("x", torn)
    assert store.read("x") == b"old"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(TEMPORARY)]


def test_missing_things(store: Store) -> None:
    assert store.names() == []
    assert not store.exists("x")
    store.delete("x")
    with pytest.raises(FileNotFoundError):
        store.read("x")
    store.child("d").write("x", b"")
    with pytest.raises(FileNotFoundError):
        store.read("d")


def test_deletes_files_and_whole_directories(store: Store) -> None:
    store.child("d").write("x", b"1")
    store.write("y", b"2")
    store.delete("d")
    assert store.names() == ["y"]
    store.delete("y")
    assert store.names() == []
    assert not store.exists("y")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "a\0"])
def test_no_name_leads_out_of_the_directory(store: Store, name: str) -> None:
    for use in (store.read, store.exists, store.delete, store.child):
        with pytest.raises(ValueError, match="not a name"):
            use(name)


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Store("runs/a/").uri == str(tmp_path / "runs/a")
    assert Store("~/a").uri == str(tmp_path / "home/a")
    assert Store("/").child("x").uri == "/x"


def test_file_uris_and_their_children_name_the_same_place(tmp_path: Path) -> None:
    child = Store(f"file://{tmp_path}").child("50% of it")
    child.write("x", b"1")
    assert (tmp_path / "50% of it" / "x").read_bytes() == b"1"
    assert Store(child.uri).read("x") == b"1"


def test_travels_by_uri(tmp_path: Path) -> None:
    child = Store(str(tmp_path)).child("a")
    child.write("x", b"1")
    assert pickle.loads(pickle.dumps(child)).read("x") == b"1"
    assert pickle.loads(pickle.dumps(child)).uri == child.uri


def test_a_child_of_an_object_store_keeps_the_query() -> None:
    store = Store("s3://bucket/run?region=eu-west-1&endpoint_override=localhost:1").child("ckpt")
    assert store.uri == "s3://bucket/run/ckpt?region=eu-west-1&endpoint_override=localhost:1"
    assert Store(store.uri).uri == store.uri


@pytest.mark.parametrize("uri", ["", "nonsense://x/y", "s3://", "file://host/x", "a\0b", "s3:/bucket/x", "gs:x"])
def test_an_unusable_uri_is_told_in_one_line(uri: str) -> None:
    with pytest.raises(UserError) as told:
        Store(uri)
    assert "\n" not in str(told.value)


def test_a_write_where_a_file_stands_in_the_way_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot write") as told:
        Store(str(tmp_path / "file")).write("x", b"1")
    assert "\n" not in str(told.value)


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    store.write("x", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError) as told:
        store.write("x", b"new")
    assert str(told.value) == f"cannot write {tmp_path}/x: No space left on device; {ROOM}"
    assert store.read("x") == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_an_update_reads_changes_and_removes(store: Store) -> None:
    seen: list[bytes | None] = []

    def to(new: bytes | None) -> Change:
        def change(old: bytes | None) -> bytes | None:
            seen.append(old)
            return new

        return change

    where = store.child("d")
    for new in (b"long content", b"short", None, None):
        where.update("x", to(new))
        assert where.names() == ([] if new is None else ["x"])
        assert new is None or where.read("x") == new
    assert seen == [None, b"long content", b"short", None]


@pytest.mark.parametrize("old", [None, b"old"])
def test_an_update_that_is_refused_changes_nothing(store: Store, old: bytes | None) -> None:
    def refuse(_: bytes | None) -> bytes:
        raise UserError("no")

    if old:
        store.write("x", old)
    with pytest.raises(UserError, match=r"^no$"):
        store.update("x", refuse)
    assert store.names() == (["x"] if old else [])
    assert not old or store.read("x") == old


def test_updates_of_a_local_file_wait_for_each_other_even_where_it_is_removed(tmp_path: Path) -> None:
    store, began = Store(str(tmp_path)), threading.Event()

    def slowly(end: bytes | None) -> Change:
        def change(old: bytes | None) -> bytes | None:
            began.set()
            time.sleep(0.1)
            return end if end is None else (old or b"") + end

        return change

    def meanwhile(end: bytes) -> threading.Thread:
        assert began.wait(60)
        thread = threading.Thread(target=store.update, args=("x", slowly(end)))
        thread.start()
        return thread

    began.set()
    threads = [meanwhile(b"a"), meanwhile(b"b")]
    for thread in threads:
        thread.join()
    assert sorted(store.read("x")) == sorted(b"ab")

    began.clear()
    removal = threading.Thread(target=store.update, args=("x", slowly(None)))
    removal.start()
    meanwhile(b"c").join()
    removal.join()
    assert store.read("x") == b"c"


def test_an_update_says_whether_it_shut_others_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.update("x", lambda _: b"1") is not store.uri.startswith("bucket")
    if "bucket" in store.uri:
        return

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert store.update("x", lambda old: (old or b"") + b"2") is False
    assert store.read("x") == b"12"


def test_a_process_killed_in_a_write_leaves_the_old_file(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("x", b"old")
    child = os.fork()
    if child == 0:
        os.replace = lambda *_: os._exit(9)
        store.write("x", b"new")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 9
    assert store.read("x") == b"old"
    assert len(os.listdir(tmp_path)) == 2
    assert store.names() == ["x"]
