"""How to connect to a store with S3's protocol, and what its errors mean."""

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
)

from msd_ray.errors import UserError
from msd_ray.storage.retry import StorageError

TRIES = 4  # of each request, with short waits; the whole operation is retried in storage/retry.py
CONNECTED, ANSWERED = 5.0, 60.0  # seconds within which a store must accept a connection, and send the next bytes
CONNECTIONS = 16  # at a time, of one process
OPTIONS = ("endpoint_override", "region", "scheme", "tls_ca_file_path")

_NEARBY = (".svc", ".local", ".internal")  # ends of names that only a cluster or a site resolves
_MAY_PASS = {"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "OperationAborted", "InternalError"}
_BUCKET = "create the bucket, or choose another place"
_RIGHT = "give these credentials the right to list, read, write and delete there, or choose another place"
_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, where this process runs"
_REGION = "say which region it is in, with ?region=... at the end of the URI or in AWS_REGION"
_ENDPOINT = "see that {} is the address of an S3 store, and that this machine reaches it"
_TLS = "add scheme=http to the URI where the store has no TLS, tls_ca_file_path=... where its authority is your own"
_ADVICE = {
    "NoSuchBucket": _BUCKET,
    "InvalidBucketName": _BUCKET,
    "AccessDenied": _RIGHT,
    "AllAccessDisabled": _RIGHT,
    "InvalidAccessKeyId": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "InvalidToken": _CREDENTIALS,
    "ExpiredToken": _CREDENTIALS,
    "RequestTimeTooSkewed": "set the clock of this machine",
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
}


@dataclass(frozen=True)
class Address:
    """The address of a store in a URI; empty fields come from the environment, as for all of Amazon's tools."""

    endpoint: str = ""
    region: str = ""
    key: str = ""
    secret: str = ""
    certificates: str = ""

    def __str__(self) -> str:
        return self.endpoint or "the endpoint in the environment, else Amazon's,"


def parse_uri(uri: str) -> tuple[Address, str]:
    """The address and bucket/path of s3://bucket/path?region=...&endpoint_override=HOST:PORT&scheme=http.

    Raises UserError for a URI that is not valid.
    """
    try:
        parts = urlsplit(uri, allow_fragments=False)
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        bucket, key, secret = parts.netloc.rpartition("@")[2], unquote(parts.username or ""), parts.password or ""
    except ValueError as error:
        raise _refusal(uri, str(error)) from None
    path = "/".join([bucket, *unquote(parts.path).strip("/").split("/")]).rstrip("/")
    if not bucket:
        raise _refusal(uri, "it names no bucket")
    if {"", ".", ".."} & set(path.split("/")):
        raise _refusal(uri, "a part of its path is empty, . or ..")
    if unknown := sorted(options.keys() - set(OPTIONS)):
        raise _refusal(uri, f"unknown option {unknown[0]}; there are {', '.join(OPTIONS)}")
    address = Address(
        endpoint=_endpoint(uri, options),
        region=options.get("region", ""),
        key=key,
        secret=unquote(secret),
        certificates=options.get("tls_ca_file_path", ""),
    )
    return address, path


def _endpoint(uri: str, options: dict[str, str]) -> str:
    """http://host:port, empty for the environment's or Amazon's own."""
    given, scheme = options.get("endpoint_override", ""), options.get("scheme", "https")
    if scheme not in ("http", "https"):
        raise _refusal(uri, f"scheme is http or https, not {scheme}")
    endpoint = given if not given or "://" in given else f"{scheme}://{given}"
    try:
        urlsplit(endpoint).port  # noqa: B018 (which raises where it is no number)
    except ValueError as error:
        raise _refusal(uri, str(error)) from None
    return endpoint.rstrip("/")


def _refusal(uri: str, why: str) -> UserError:
    return UserError(f"cannot use {uri} as a place to store files: {why}")


@lru_cache
def client_of(address: Address) -> Any:
    """A client for all threads of this process."""
    client = _client(address, None)  # which knows the endpoint that the environment names
    return _client(address, {}) if is_near(urlsplit(client.meta.endpoint_url).hostname or "") else client


def _client(address: Address, proxies: dict[str, str] | None) -> Any:
    """proxies: None for those of the environment."""
    config = Config(
        connect_timeout=CONNECTED,
        read_timeout=ANSWERED,
        max_pool_connections=CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": TRIES},
        proxies=proxies,
        # Newer checksums are unknown to many stores, and every file here has its sha256 in a manifest.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.session.Session().client(
        "s3",
        endpoint_url=address.endpoint or None,
        region_name=address.region or None,
        aws_access_key_id=address.key or None,
        aws_secret_access_key=address.secret or None,
        verify=address.certificates or None,
        config=config,
    )


def is_near(host: str) -> bool:
    """Whether a host belongs to this machine, cluster or site, so that no proxy of the environment is used."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return bool(host) and ("." not in host or host.endswith(_NEARBY))


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def translated(address: Address) -> Iterator[None]:
    """Turns the library's errors into a StorageError, which says in one line why and what to do."""
    try:
        yield
    except ClientError as error:
        raise _of_answer(error, address) from error
    except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, ProfileNotFound) as error:
        raise StorageError(str(error), _CREDENTIALS, passes=False) from error
    except SSLError as error:
        raise StorageError(str(error), _TLS, passes=False) from error
    except EndpointConnectionError as error:
        raise StorageError(str(error), _ENDPOINT.format(address)) from error
    except HTTPClientError as error:
        raise StorageError(str(error)) from error
    except (BotoCoreError, ValueError) as error:
        raise StorageError(str(error), passes=False) from error


def _of_answer(error: ClientError, address: Address) -> StorageError:
    """The store's answer as an error: some of these may pass, the rest are reported at once."""
    code, said = code_of(error), error.response.get("Error", {}).get("Message", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    passes = code in _MAY_PASS or status >= 500 or status in (408, 429)
    advice = _ENDPOINT.format(address) if code.isdigit() else _ADVICE.get(code, "")  # no S3 store answers by a number
    return StorageError(f"{code}: {said}" if said else code, advice, passes=passes)
