"""Amazon S3 and stores with its protocol: as few requests as possible, and updates that exclude each other.

A directory is only a common prefix of keys: none is made, so none is left behind.
"""

from collections.abc import Iterator
from io import BytesIO
from itertools import chain
from typing import Any

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from msd_ray.storage.files import OpenFile, Pieces
from msd_ray.storage.local_disk import Change
from msd_ray.storage.retry import StorageError
from msd_ray.storage.s3_client import Address, client_of, code_of, translated

PART = 1 << 24  # bytes; a file of more is sent in parts, of which S3 takes 10,000
DELETED_AT_ONCE = 1000  # keys in one request, which is S3's limit
UPDATES = 20  # times that another process may write first before an update gives up
_WRITTEN_BY_OTHERS = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"}
_NOBODYS_TAG = '"00000000000000000000000000000000"'
_IN_PARTS = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=4)
_heeds_conditions: dict[Address, bool] = {}  # of each store that this process has asked


class S3Files:
    """The buckets of one store. A path is bucket/key. Every failure is an OSError that says in one line why."""

    def __init__(self, address: Address) -> None:
        self._address = address

    def read(self, path: str) -> bytes | None:
        with translated(self._address):
            return self._content_and_tag(path)[0]

    def read_range(self, path: str, begin: int, size: int) -> bytes | None:
        with translated(self._address):
            try:
                answer = self._answer(path, {"Range": f"bytes={begin}-{begin + size - 1}"})
            except ClientError as error:
                if code_of(error) != "InvalidRange":
                    raise
                return b""  # it ends before
            return bytes(answer["Body"].read()) if answer else None

    def opened(self, path: str, position: int) -> OpenFile | None:
        with translated(self._address):
            try:
                answer = self._answer(path, {"Range": f"bytes={position}-"} if position else {})
            except ClientError as error:
                if code_of(error) != "InvalidRange":
                    raise
                return BytesIO()  # it ends there
            return _Opened(answer["Body"], self._address) if answer else None

    def write(self, path: str, pieces: Pieces) -> None:
        """S3 shows a file once it is complete; a failed upload is aborted."""
        source = _Source(pieces)
        beginning = source.read(PART)
        with translated(self._address):
            if len(beginning) < PART:
                self._client.put_object(**_named(path), Body=beginning)
            else:
                source.put_back(beginning)
                self._client.upload_fileobj(source, **_named(path), Config=_IN_PARTS)

    def append(self, path: str, lines: bytes) -> bool:
        return False

    def update(self, path: str, change: Change) -> bool:
        """Writes if no process has written since the file was read; False if the store ignores such conditions."""
        with translated(self._address):
            for _ in range(UPDATES):
                old, tag = self._content_and_tag(path)
                new = change(old)
                if self._replaced(path, tag, new):
                    return self._shuts_others_out(path, new)
        raise StorageError(f"others wrote it {UPDATES} times in between")

    def listed(self, path: str) -> dict[str, int | None]:
        beginning = f"{_key(path)}/".lstrip("/")
        with translated(self._address):
            found = {key.removeprefix(beginning): size for key, size in self._keys(path, beginning, "/")}
        return {name.rstrip("/"): size for name, size in found.items() if name}

    def exists(self, path: str) -> bool:
        key = _key(path)
        with translated(self._address):
            return any(found in (key, f"{key}/") for found, _ in self._keys(path, key, "/"))

    def remove(self, path: str) -> None:
        self.remove_file(path)
        with translated(self._address):
            keys = [key for key, _ in self._keys(path, f"{_key(path)}/")]
            for i in range(0, len(keys), DELETED_AT_ONCE):
                self._delete(path, keys[i : i + DELETED_AT_ONCE])

    def remove_file(self, path: str) -> None:
        with translated(self._address):
            self._client.delete_object(**_named(path))

    @property
    def _client(self) -> Any:
        return client_of(self._address)

    def _content_and_tag(self, path: str) -> tuple[bytes | None, str]:
        """The tag is another after each write; it is empty where there is no file."""
        answer = self._answer(path, {})
        return (answer["Body"].read(), answer["ETag"]) if answer else (None, "")

    def _answer(self, path: str, which: dict[str, str]) -> dict[str, Any] | None:
        """The store's answer to the request for a file; None if there is none."""
        try:
            answer: dict[str, Any] = self._client.get_object(**_named(path), **which)
        except ClientError as error:
            if code_of(error) != "NoSuchKey":
                raise
            return None
        return answer

    def _replaced(self, path: str, tag: str, new: bytes | None) -> bool:
        """Writes `new` if the file still has this tag; returns whether it had."""
        if new is None and not tag:
            return True
        condition = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"}
        if not _heeds_conditions.get(self._address, True):
            condition = {}
        try:
            self._put_or_delete(path, new, condition)
        except ClientError as error:
            if condition and code_of(error) == "NotImplemented":
                self._put_or_delete(path, new, {})
            elif condition and code_of(error) in _WRITTEN_BY_OTHERS:
                return False
            else:
                raise
        return True

    def _put_or_delete(self, path: str, new: bytes | None, condition: dict[str, str]) -> None:
        if new is None:
            self._client.delete_object(**_named(path), **condition)
        else:
            self._client.put_object(**_named(path), Body=new, **condition)

    def _shuts_others_out(self, path: str, written: bytes | None) -> bool:
        """Whether the store honours conditions. It is tried once with two that do not hold: some stores ignore them."""
        if self._address not in _heeds_conditions and written is not None:
            conditions = {"IfMatch": _NOBODYS_TAG}, {"IfNoneMatch": "*"}
            _heeds_conditions[self._address] = all(self._refuses(path, written, each) for each in conditions)
        return _heeds_conditions.get(self._address, True)

    def _refuses(self, path: str, written: bytes, condition: dict[str, str]) -> bool:
        try:
            self._put_or_delete(path, written, condition)
        except ClientError as error:
            if code_of(error) == "NotImplemented":
                return False
            if code_of(error) in _WRITTEN_BY_OTHERS:
                return True
            raise
        return False

    def _keys(self, path: str, prefix: str, delimiter: str = "") -> Iterator[tuple[str, int | None]]:
        """All keys with this prefix, and their bytes. With a delimiter, keys that share the part up to the next
        delimiter are given once, as this part, with None."""
        bucket = _named(path)["Bucket"]
        pages = self._client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=bucket, Prefix=prefix, Delimiter=delimiter):
            yield from ((found["Key"], found["Size"]) for found in page.get("Contents", []))
            yield from ((found["Prefix"], None) for found in page.get("CommonPrefixes", []))

    def _delete(self, path: str, keys: list[str]) -> None:
        doomed = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        answer = self._client.delete_objects(Bucket=_named(path)["Bucket"], Delete=doomed)
        if failed := answer.get("Errors"):
            raise ClientError({"Error": failed[0]}, "DeleteObjects")


class _Opened:
    """The rest of a file; its errors are StorageErrors."""

    def __init__(self, body: Any, address: Address) -> None:
        self._body, self._address = body, address

    def read(self, size: int, /) -> bytes:
        with translated(self._address):
            return bytes(self._body.read(size))


class _Source:
    """Reads pieces as if they were a file."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces: Iterator[bytes | memoryview] = iter(pieces)
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end."""
        found, missing = list[memoryview](), size
        while missing and (self._rest or self._goes_on()):
            found.append(self._rest[:missing])
            self._rest = self._rest[missing:]
            missing -= len(found[-1])
        return b"".join(found)

    def put_back(self, data: bytes) -> None:
        """Begins again at the first piece."""
        self._pieces, self._rest = chain([self._rest], self._pieces), memoryview(data)

    def _goes_on(self) -> bool:
        """Goes to the next piece that is not empty, if there is one."""
        self._rest = next((memoryview(piece) for piece in self._pieces if piece), memoryview(b""))
        return bool(self._rest)


def _named(path: str) -> dict[str, str]:
    bucket, _, key = path.partition("/")
    return {"Bucket": bucket, "Key": key}


def _key(path: str) -> str:
    return path.partition("/")[2]
