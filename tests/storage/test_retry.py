"""Storage that fails: what passes is waited for, what does not is told at once."""

import errno
import logging
import os
import uuid
from collections.abc import Callable
from typing import Any

import fsspec
import pytest
from pyarrow import ArrowInvalid, fs

from msd_ray.errors import UserError
from msd_ray.storage import Store
from msd_ray.storage.retry import TRIES, patiently

PASSING = [OSError(number, os.strerror(number)) for number in (errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT)]
PASSING += [ConnectionResetError(), TimeoutError(), OSError("AWS Error SLOW_DOWN during PutObject operation: m")]
PASSING += [
    OSError("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7, Couldn't connect to server")
]
PASSING += [OSError("google::cloud::Status(UNAVAILABLE: Retry policy exhausted)")]
LASTING = {
    OSError(errno.ENOSPC, "No space left on device"): "free some space and run the same command again",
    OSError(errno.EDQUOT, "Disk quota exceeded"): "free some space and run the same command again",
    OSError(errno.EROFS, "Read-only file system"): "choose another place",
    PermissionError(errno.EACCES, "Permission denied"): "give this user the right",
    NotADirectoryError(errno.ENOTDIR, "Not a directory"): "there is a file where a directory is needed",
    OSError("AWS Error ACCESS_DENIED during PutObject operation: m"): "give this user the right",
    OSError("AWS Error NO_SUCH_BUCKET during CreateMultipartUpload operation: m"): "create the bucket",
    OSError("Bucket 'b' not found. To create buckets, enable the allow_bucket_creation option."): "create the bucket",
    ArrowInvalid("nonsense"): "choose another place",
    OSError(
        "google::cloud::Status(UNAVAILABLE: Could not create a OAuth2 access token"
    ): "give this process credentials",
    OSError("Failed to get token from DefaultAzureCredential. See the logger"): "give this process credentials",
}


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that would have been waited."""
    waited: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waited.append)
    return waited


def failing(error: Exception, times: int) -> Callable[[], str]:
    left = [error] * times

    def do() -> str:
        if left:
            raise left.pop()
        return "done"

    return do


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_passes_is_tried_again_with_growing_waits_and_a_warning(
    error: OSError, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert patiently("write", "here", failing(error, TRIES - 1)) == "done"
    assert len(waits) == TRIES - 1
    assert waits == sorted(waits) and waits[0] > 0 and sum(waits) < 10
    assert all(r.getMessage().startswith("cannot write here: ") for r in caplog.records)
    assert len(caplog.records) == TRIES - 1


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_keeps_failing_is_told_after_a_few_tries(error: OSError, waits: list[float]) -> None:
    with pytest.raises(UserError, match=f"^cannot write here: .*; tried {TRIES} times; run the same command") as told:
        patiently("write", "here", failing(error, TRIES))
    assert "\n" not in str(told.value) and "Errno" not in str(told.value)
    assert told.value.__cause__ is error


@pytest.mark.parametrize(("error", "advice"), LASTING.items(), ids=repr)
def test_what_cannot_pass_is_told_at_once_with_what_to_do(
    error: OSError, advice: str, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match=f"^cannot write here: .*; .*{advice}") as told:
        patiently("write", "here", failing(error, 1))
    assert "\n" not in str(told.value)
    assert not waits and not caplog.records


def test_a_library_that_complains_at_length_is_cut_short(waits: list[float]) -> None:
    with pytest.raises(UserError, match=r"^cannot write here: no such library; ") as told:
        patiently("write", "here", failing(ArrowInvalid("no such library dlopen(/usr/lib/x) failed: gone " * 99), 1))
    with pytest.raises(UserError, match=r" \.\.\.; repair it") as told:
        patiently("write", "here", failing(ArrowInvalid("word " * 999), 1))
    assert len(str(told.value)) < 400


@pytest.mark.parametrize("error", [UserError("no"), KeyError("x"), ValueError("y")])
def test_other_errors_are_passed_on(error: Exception, waits: list[float]) -> None:
    with pytest.raises(type(error)) as told:
        patiently("write", "here", failing(error, 1))
    assert told.value is error and not waits


USES: dict[str, Callable[[Store], Any]] = {
    "read": lambda store: store.read("x"),
    "read in pieces": lambda store: b"".join(store.read_chunks("x")),
    "write": lambda store: store.write("x", b"2"),
    "update": lambda store: store.update("x", lambda _: b"2"),
    "names": lambda store: store.names(),
    "exists": lambda store: store.exists("x"),
    "delete": lambda store: store.delete("x"),
}
FOUND = {
    "read": b"1",
    "read in pieces": b"1",
    "write": None,
    "update": False,
    "names": ["x"],
    "exists": True,
    "delete": None,
}
OPERATIONS = "create_dir delete_dir delete_file get_file_info get_file_info_selector open_input_file open_output_stream"


class FlakyHandler(fs.FSSpecHandler):  # type: ignore[misc]
    """An object store in memory, whose next `failures` requests break down."""

    failures = 0

    def __getattribute__(self, name: str) -> Any:
        if name in OPERATIONS.split() and self.failures:
            self.failures -= 1
            raise ConnectionResetError("the server hung up")
        return super().__getattribute__(name)


@pytest.mark.parametrize("use", USES)
def test_every_use_of_a_store_is_tried_again(use: str, waits: list[float]) -> None:
    flaky = FlakyHandler(fsspec.filesystem("memory", skip_instance_cache=True))
    store = Store(uuid.uuid4().hex, fs.PyFileSystem(flaky))
    store.write("x", b"1")
    flaky.failures = TRIES - 1
    assert USES[use](store) == FOUND[use]
    assert len(waits) == TRIES - 1
    flaky.failures = 10 * TRIES
    with pytest.raises(UserError, match=f"the server hung up; tried {TRIES} times"):
        USES[use](store)
    flaky.failures = 0
    assert store.names() == ([] if use == "delete" else ["x"])
