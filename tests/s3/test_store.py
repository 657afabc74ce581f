"""A Store on S3: how often it asks, what it makes of a server that fails, and what it says where that cannot pass."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from msd_ray.errors import UserError
from msd_ray.storage import Store
from msd_ray.storage import s3 as module
from msd_ray.storage.s3_client import client_of, is_near, parse_uri

from .running import S3

USES: dict[str, Callable[[Store], Any]] = {
    "read": lambda store: store.read("x"),
    "write": lambda store: store.write("x", b"2"),
    "update": lambda store: store.update("x", lambda _: b"2"),
    "names": lambda store: store.names(),
    "exists": lambda store: store.exists("x"),
    "delete": lambda store: store.delete("x"),
}
LARGE = module.PART + 10**6


@pytest.fixture
def store(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Store:
    client_of.cache_clear()
    return Store(s3.uri(f"bucket/{tmp_path_factory.mktemp('run').name}"))


def test_each_use_asks_no_more_than_it_must(s3: S3, store: Store) -> None:
    store.update("lease", lambda _: b"1")  # which finds out whether the store heeds conditions
    s3.requests()

    def cost(use: Callable[[], Any]) -> dict[str, int]:
        use()
        return dict(s3.counted())

    assert cost(lambda: store.child("a").child("b").write("x", b"1")) == {"Put": 1}
    assert cost(lambda: store.write("large", bytes(LARGE))) == {"CreateUpload": 1, "Part": 2, "Complete": 1}
    assert cost(lambda: store.read("large")) == {"Get": 1}
    assert cost(lambda: store.exists("a")) == cost(lambda: store.exists("none")) == {"List": 1}
    assert cost(lambda: store.names()) == cost(lambda: store.child("none").names()) == {"List": 1}
    assert cost(lambda: store.update("lease", lambda _: b"2")) == {"Get": 1, "Put": 1}
    assert cost(lambda: store.delete("large")) == {"Delete": 1, "List": 1}
    assert cost(lambda: store.delete("a")) == {"Delete": 1, "List": 1, "DeleteMany": 1}


def test_a_directory_leaves_nothing_behind_and_is_not_its_namesake(s3: S3, store: Store) -> None:
    for name in ("a", "a-b", "ab"):
        store.child(name).write("x", b"1")
    assert not store.exists("x") and store.exists("a") and not store.child("a").exists("b")
    store.delete("a")
    assert store.names() == ["a-b", "ab"] and not store.exists("a")
    listed = client_of(parse_uri(store.uri)[0]).list_objects_v2(Bucket="bucket")
    assert not [found["Key"] for found in listed["Contents"] if found["Key"].endswith("/")]


def test_a_directory_of_more_files_than_a_listing_holds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DELETED_AT_ONCE", 2)
    for i in range(5):
        store.child("a").write(str(i), b"1")
    store.delete("a")
    assert store.names() == []


def test_a_server_that_fails_now_and_then_is_not_noticed(
    s3: S3, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Every fifth, in turn with SlowDown, a connection that is reset, and one that is reset once all is done."""
    s3.behave(every=5)
    with caplog.at_level(logging.WARNING):
        for i in range(15):
            child, content = store.child(str(i)), str(i).encode()
            child.write("x", content)
            assert child.update("counter", lambda old: (old or b"") + b"1")
            assert child.read("x") == content and child.names() == ["counter", "x"]
        store.write("large", bytes(LARGE))
        assert store.read("large") == bytes(LARGE)
        store.delete("0")
    assert len(store.names()) == 15
    assert not caplog.records


@pytest.mark.parametrize("use", USES)
def test_a_bucket_that_is_missing_is_told_at_once(use: str, s3: S3, store: Store) -> None:
    missing = Store(s3.uri("missing/run"))
    with pytest.raises(UserError) as told:
        USES[use](missing)
    assert str(told.value).endswith(
        "NoSuchBucket: The specified bucket does not exist; create the bucket, or choose another place"
    )
    assert sum(s3.counted().values()) == 1


REFUSALS = {
    "AccessDenied": "give these credentials the right to list, read, write and delete there",
    "InvalidAccessKeyId": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "SignatureDoesNotMatch": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "RequestTimeTooSkewed": "set the clock of this machine",
}


@pytest.mark.parametrize("code", REFUSALS)
@pytest.mark.parametrize("use", USES)
def test_what_cannot_pass_is_told_at_once(use: str, code: str, s3: S3, store: Store) -> None:
    s3.behave(refuse=code)
    with pytest.raises(UserError) as told:
        USES[use](store)
    assert f": {code}: This server says so; {REFUSALS[code]}" in str(told.value) and "\n" not in str(told.value)
    assert sum(s3.counted().values()) == 1


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits before trying again."""
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)


@pytest.mark.usefixtures("waits")
def test_an_endpoint_that_nobody_answers_at_is_named(store: Store) -> None:
    with pytest.raises(UserError) as told:
        Store("s3://bucket/run?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1").write("x", b"1")
    assert str(told.value) == (
        'cannot write bucket/run/x: Could not connect to the endpoint URL: "http://127.0.0.1:9/bucket/run/x"; tried 4 '
        "times; see that http://127.0.0.1:9 is the address of an S3 store, and that this machine reaches it"
    )


def test_without_credentials_they_are_asked_for_in_one_line(
    s3: S3, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", "/nonexistent")
    with pytest.raises(UserError) as told:
        store.write("x", b"1")
    assert str(told.value).endswith(
        "/x: Unable to locate credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, where this "
        "process runs"
    )


@pytest.fixture
def web_server() -> Iterator[int]:
    """The port of one that knows nothing of S3."""
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


@pytest.mark.parametrize("use", USES)
def test_a_server_that_is_no_store_is_told_at_once(use: str, web_server: int, store: Store) -> None:
    endpoint = f"127.0.0.1:{web_server}"
    with pytest.raises(UserError, match=rf"see that http://{endpoint} is the address of an S3 store"):
        USES[use](Store(f"s3://bucket/run?endpoint_override={endpoint}&scheme=http&region=us-east-1"))


def test_a_store_without_tls_is_told_at_once(s3: S3, store: Store) -> None:
    with pytest.raises(UserError, match=r"SSL validation failed .*; add scheme=http to the URI where the store has no"):
        Store(f"s3://bucket/run?endpoint_override=127.0.0.1:{s3.port}&region=us-east-1").write("x", b"1")


@pytest.mark.usefixtures("waits")
def test_of_a_large_file_whose_parts_fail_nothing_stays(s3: S3, store: Store) -> None:
    store.write("x", b"old")
    s3.behave(refuse="InternalError", only="Part")
    with pytest.raises(UserError, match=r"cannot write .*/x: InternalError: This server says so; tried 4 times"):
        store.write("x", bytes(LARGE))
    s3.behave()
    assert store.read("x") == b"old" and store.names() == ["x"]
    assert "Uploads" not in client_of(parse_uri(store.uri)[0]).list_multipart_uploads(Bucket="bucket")


@pytest.mark.parametrize("pieces", [1, 3])
def test_what_the_pieces_raise_is_passed_on_and_leaves_the_old_file(pieces: int, s3: S3, store: Store) -> None:
    def cut_short() -> Iterator[bytes]:
        yield from [bytes(module.PART)] * (pieces - 1)
        raise ZeroDivisionError

    store.write("x", b"old")
    with pytest.raises(ZeroDivisionError):
        store.write_chunks("x", cut_short)
    assert store.read("x") == b"old" and store.names() == ["x"]
    assert "Uploads" not in client_of(parse_uri(store.uri)[0]).list_multipart_uploads(Bucket="bucket")


def test_a_process_killed_while_it_writes_leaves_the_old_file(s3: S3, store: Store) -> None:
    store.write("x", b"old")
    s3.behave(delay=0.2)
    script = "import sys; from msd_ray.storage import Store; Store(sys.argv[1]).write('x', bytes(200_000_000))"
    writer = subprocess.Popen([sys.executable, "-c", script, store.uri])
    while not s3.counted()["Part"]:
        time.sleep(0.01)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    s3.behave()
    assert store.read("x") == b"old" and store.names() == ["x"]


@pytest.mark.parametrize("conditions", ["ignored", "unknown"])
def test_a_store_that_heeds_no_conditions_is_known_not_to_shut_others_out(
    conditions: str, s3: S3, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_heeds_conditions", {})
    s3.behave(conditions=conditions)
    for content in (b"1", b"2"):
        assert store.update("x", lambda _, new=content: new) is False
        assert store.read("x") == content
    assert store.update("x", lambda _: None) is False
    assert store.names() == []


def test_a_file_that_others_never_cease_to_write_is_given_up(
    s3: S3, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Store(store.uri)

    def change(_: bytes | None) -> bytes:
        other.write("x", os.urandom(8))
        return b"mine"

    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    with pytest.raises(UserError, match="others wrote it 20 times in between"):
        store.update("x", change)


@pytest.mark.parametrize("name", ["with space", "ä ö", "50%", "a+b", "a?b", "a#b", "a%20b", "~x"])
def test_every_name_comes_back_as_it_was(name: str, s3: S3, store: Store) -> None:
    child = store.child(name)
    child.write(name, b"1")
    assert store.names() == [name] and child.names() == [name]
    assert Store(child.uri).read(name) == b"1"
    store.delete(name)
    assert store.names() == []


def test_the_endpoint_may_come_from_the_environment(s3: S3, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("x", b"1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3.port}")
    assert Store(f"s3://{parse_uri(store.uri)[1]}").read("x") == b"1"


def test_no_proxy_of_the_environment_stands_before_what_is_near(
    s3: S3, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3.port}")
    store.write("x", b"1")
    assert Store(f"s3://{parse_uri(store.uri)[1]}").read("x") == b"1"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "10.0.0.7", "minio", "minio.a.svc", "s3.a.local"])
def test_near_is_what_no_proxy_leads_to(host: str) -> None:
    assert is_near(host)


@pytest.mark.parametrize("host", ["", "8.8.8.8", "s3.eu-west-1.amazonaws.com", "minio.example.org"])
def test_far_is_the_rest(host: str) -> None:
    assert not is_near(host)


NONSENSE = {
    "s3://": "it names no bucket",
    "s3:///x": "it names no bucket",
    "s3://bucket/a//b": "a part of its path is empty, . or ..",
    "s3://bucket/../b": "a part of its path is empty, . or ..",
    "s3://bucket/x?endpoint=localhost": "unknown option endpoint; there are endpoint_override, region, scheme",
    "s3://bucket/x?scheme=ftp": "scheme is http or https, not ftp",
    "s3://bucket/x?region": "bad query field: 'region'",
    "s3://bucket/x?endpoint_override=localhost:x": "Port could not be cast to integer value as 'x'",
    "s3://[bucket/x": "Invalid IPv6 URL",
}


@pytest.mark.parametrize("uri", NONSENSE)
def test_a_uri_that_makes_no_sense_is_refused_in_one_line(uri: str) -> None:
    with pytest.raises(UserError) as told:
        Store(uri)
    assert str(told.value).startswith(f"cannot use {uri} as a place to store files: {NONSENSE[uri]}")
    assert "\n" not in str(told.value)


def test_a_bucket_name_that_cannot_be_is_told_in_one_line(s3: S3, store: Store) -> None:
    with pytest.raises(UserError, match=r"^cannot write My Bucket/x: .*Invalid bucket name") as told:
        Store(s3.uri("My Bucket")).write("x", b"1")
    assert "\n" not in str(told.value)


def test_a_bucket_alone_and_a_slash_at_the_end_are_fine(s3: S3, store: Store) -> None:
    s3.make_bucket("alone")
    for uri in ("alone", "alone/"):
        Store(s3.uri(uri)).write("x", b"1")
        assert Store(s3.uri(uri)).names() == ["x"]
    assert Store(s3.uri("alone/run/")).child("a").uri == s3.uri("alone/run/a")
