import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs

from msd_ray.errors import CorruptError
from msd_ray.storage import MANIFEST, Store, read_file, read_manifest, write_bundle

BODY = {"a": [1, 2.5, None, True], "ü": {"b": "text"}}
FILES = {"x": b"some bytes", "empty": b""}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def in_memory() -> Store:
    return Store("b", fs._MockFileSystem())


@given(st.dictionaries(st.text(), JSON, max_size=4), st.dictionaries(st.sampled_from("abc"), st.binary(max_size=20)))
def test_any_bundle_is_read_back(body: dict[str, Any], files: dict[str, bytes]) -> None:
    store = in_memory()
    write_bundle(store, body, files.items())
    manifest = read_manifest(store)
    assert manifest.body == body
    assert {name: read_file(store, manifest, name) for name in manifest.files} == files


def test_the_body_is_read_as_json_has_it() -> None:
    store = in_memory()
    write_bundle(store, {"numbers": {10: "ten", 2: "two"}, "pair": (1, 2)}, [])
    assert read_manifest(store).body == {"numbers": {"10": "ten", "2": "two"}, "pair": [1, 2]}


@pytest.mark.parametrize("body", [{"x": float("nan")}, {"x": object()}])
def test_a_body_that_is_not_json_leaves_the_old_bundle(body: dict[str, Any]) -> None:
    store = in_memory()
    write_bundle(store, BODY, FILES.items())
    with pytest.raises((ValueError, TypeError)):
        write_bundle(store, body, [])
    assert read_manifest(store).body == BODY


def test_every_changed_byte_and_every_truncation_is_detected() -> None:
    store = in_memory()
    write_bundle(store, BODY, FILES.items())
    intact = store.read(MANIFEST)
    for at in range(len(intact)):
        for damaged in (intact[:at], intact[:at] + bytes([intact[at] ^ 1]) + intact[at + 1 :], _with(intact, at)):
            store.write(MANIFEST, damaged)
            with pytest.raises(CorruptError, match=r"manifest\.json is damaged") as told:
                read_manifest(store)
            assert "\n" not in str(told.value)


def _with(data: bytes, at: int) -> bytes:
    return data[:at] + b" " + data[at:]


NOT_MANIFESTS = {
    "empty": b"",
    "not UTF-8": b"\xff\xfe",
    "list": b"[]",
    "null": b"null",
    "NaN": b"NaN",
    "NaN inside": b'{"body": {"x": NaN}, "files": {}, "sha256": ""}',
    "files a list": b'{"body": {}, "files": [], "sha256": ""}',
    "entry null": b'{"body": {}, "files": {"x": null}, "sha256": ""}',
    "entry of other fields": b'{"body": {}, "files": {"x": {"size": 1}}, "sha256": ""}',
    "body a list": b'{"body": [], "files": {}, "sha256": ""}',
    "duplicated keys": b'{"body": {}, "body": {}, "files": {}, "sha256": ""}',
    "deep": b"[" * 100_000,
    "deep body": b'{"files": {}, "body": {"x": ' + b"[" * 20_000 + b"]" * 20_000 + b"}}",
    "long number": b"1" * 10_000,
    "lone surrogate": b'{"body": {"\\ud800": 1}, "files": {}, "sha256": ""}',
}


@pytest.mark.parametrize("data", NOT_MANIFESTS.values(), ids=NOT_MANIFESTS.keys())
def test_what_is_no_manifest_is_corrupt(data: bytes) -> None:
    store = in_memory()
    store.write(MANIFEST, data)
    with pytest.raises(CorruptError):
        read_manifest(store)


@given(st.binary(max_size=200))
def test_random_bytes_are_corrupt(data: bytes) -> None:
    store = in_memory()
    store.write(MANIFEST, data)
    with pytest.raises(CorruptError):
        read_manifest(store)


@pytest.mark.parametrize(("damage", "why"), [(b"some bytez", "sha256"), (b"some", "4 bytes instead of 10")])
def test_a_damaged_file_is_told(damage: bytes, why: str) -> None:
    store = in_memory()
    write_bundle(store, BODY, FILES.items())
    store.write("x", damage)
    with pytest.raises(CorruptError, match=why):
        read_file(store, read_manifest(store), "x")


def test_a_missing_or_unlisted_file_is_told() -> None:
    store = in_memory()
    write_bundle(store, BODY, FILES.items())
    store.write("stranger", b"")
    store.delete("x")
    for name in ("x", "stranger", "../x"):
        with pytest.raises(CorruptError):
            read_file(store, read_manifest(store), name)


def test_a_write_cut_short_leaves_no_manifest_beside_changed_files(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_bundle(store, BODY, FILES.items())

    def cut_short() -> Iterator[tuple[str, bytes]]:
        yield "x", b"new bytes"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bundle(store, BODY, cut_short())
    with pytest.raises(FileNotFoundError):
        read_manifest(store)
    write_bundle(store, BODY, [("z", b"")])
    assert store.names() == [MANIFEST, "z"]


def test_only_one_file_is_asked_for_at_a_time() -> None:
    store, written = in_memory(), []

    def files() -> Iterator[tuple[str, bytes]]:
        for name in "abc":
            written.append(store.names())
            yield name, b""

    write_bundle(store, {}, files())
    assert written == [[], ["a"], ["a", "b"]]


def test_a_name_is_given_once() -> None:
    with pytest.raises(ValueError, match="one file of each name"):
        write_bundle(in_memory(), {}, [("a", b""), ("a", b"")])


def test_a_manifest_from_another_hand_with_its_hash_is_still_checked() -> None:
    store = in_memory()
    write_bundle(store, BODY, FILES.items())
    raw = json.loads(store.read(MANIFEST))
    raw["body"]["a"] = []
    store.write(MANIFEST, json.dumps(raw).encode())
    with pytest.raises(CorruptError):
        read_manifest(store)
