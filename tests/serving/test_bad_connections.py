"""Bytes on the gRPC port that are no good call: HTTP/2, HPACK and TLS as no client would send them."""

import gzip
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from msd_ray.serving.client import Client, Connection
from msd_ray.serving.service.request import Limits

from . import raw
from .certificates import certificates
from .conftest import Running, running
from .raw import (
    CALL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    call,
    exchanged,
    frame,
    grpc_status,
    packed,
    thrown_in,
)
from .test_bad_input import ONE, image
from .test_gateway import eventually

MESSAGE = ONE.SerializeToString()
BOMB = gzip.compress(b"\0" * 50_000_000)
OPEN = frame(HEADERS, END_HEADERS, 1, packed(CALL))
ALONE = END_HEADERS | END_STREAM
EXHAUSTED, WRONG, UNIMPLEMENTED, INTERNAL, LATE = 8, 3, 12, 13, 4


def said(message: bytes = MESSAGE, prefix: bytes | None = None, **fields: str) -> bytes:
    """A call whose headers differ. fields: `_` stands for `-`, and `__` for a colon at the start."""
    changed = {key.replace("__", ":", 1).replace("_", "-"): value for key, value in fields.items()}
    return call(message, CALL | changed, prefix)


def squeezed(data: bytes) -> tuple[bytes, bytes]:
    """A compressed message and its prefix."""
    return data, b"\1" + len(data).to_bytes(4, "big")


def without(name: str) -> bytes:
    return call(MESSAGE, {key: value for key, value in CALL.items() if key != name})


def spoken(*frames: bytes) -> bytes:
    return PREFACE + frame(SETTINGS) + b"".join(frames)


def divided(data: bytes, size: int = 16_000) -> list[bytes]:
    return [frame(DATA, 0, 1, data[i : i + size]) for i in range(0, len(data), size)]


BAD: dict[str, tuple[bytes, int]] = {
    "50 MB of zeros in 50 kB": (
        spoken(
            frame(HEADERS, END_HEADERS, 1, packed(CALL | {"grpc-encoding": "gzip"})), *divided(squeezed(BOMB)[1] + BOMB)
        ),
        EXHAUSTED,
    ),
    "3 MB of zeros in 3 kB": (said(*squeezed(gzip.compress(b"\0" * 3_000_000)), grpc_encoding="gzip"), EXHAUSTED),
    "a message of 4 GB": (said(prefix=b"\0\xff\xff\xff\xff"), EXHAUSTED),
    "gzip that is none": (said(*squeezed(b"garbage"), grpc_encoding="gzip"), INTERNAL),
    "gzip that is not announced": (said(*squeezed(gzip.compress(MESSAGE))), INTERNAL),
    "an encoding there is not": (said(*squeezed(MESSAGE), grpc_encoding="br"), INTERNAL),
    "a length that is too short": (said(prefix=b"\0\0\0\0\1"), WRONG),
    "an empty path": (said(__path=""), UNIMPLEMENTED),
    "a star as path": (said(__path="*"), UNIMPLEMENTED),
    "a slash as path": (said(__path="/"), UNIMPLEMENTED),
    "a way up": (said(__path="/msd.v1.EnsembleService/../Generate"), UNIMPLEMENTED),
    "a path with a null": (said(__path="/msd.v1.EnsembleService/Generate\0"), UNIMPLEMENTED),
    "a service in other letters": (said(__path="/MSD.V1.EnsembleService/Generate"), UNIMPLEMENTED),
    "a scheme there is not": (said(__scheme="ftp"), INTERNAL),
    "no trailers": (said(te="gzip"), INTERNAL),
    "a name in capitals": (said(**{"X": "a"}), INTERNAL),
    "bytes that are not base64": (said(x_bin="%%%"), INTERNAL),
    "a trace that is not base64": (said(grpc_trace_bin="!!!"), INTERNAL),
    "a deadline in words": (said(grpc_timeout="soon"), INTERNAL),
    "a deadline without a unit": (said(grpc_timeout="5"), INTERNAL),
    "a negative deadline": (said(grpc_timeout="-1S"), INTERNAL),
    "a deadline that is over": (said(grpc_timeout="0m"), LATE),
    "headers that are no HPACK": (spoken(frame(HEADERS, ALONE, 1, b"\xff" * 50)), INTERNAL),
    "more padding than there is": (spoken(frame(HEADERS, ALONE | 8, 1, b"\xff" + packed(CALL))), INTERNAL),
}

HARMLESS: dict[str, bytes] = {
    "no method": without(":method"),
    "GET": said(__method="GET"),
    "no path": without(":path"),
    "no scheme": without(":scheme"),
    "no authority": without(":authority"),
    "no te": without("te"),
    "a path of 15 kB": said(__path="/" + "a" * 15_000),
    "a null in a header": said(x="a\0b"),
    "a second header in one": said(x="a\r\nb: c"),
    "a deadline of 12 digits": said(grpc_timeout="9" * 12 + "H"),
    "a header of 10 kB": said(x="a" * 10_000),
    "half a prefix": said(b"", b"\0\0"),
    "half a message": said(prefix=b"\0\0\0\1\0"),
    "no message": said(b"", b""),
    "100,000 headers": spoken(
        frame(HEADERS, 0, 1, packed(CALL)),
        *[frame(CONTINUATION, 0, 1, packed({f"x-{i}-{j}": "a" for j in range(500)})) for i in range(200)],
        frame(CONTINUATION, END_HEADERS, 1),
    ),
    "headers that never end": spoken(frame(HEADERS, 0, 1, packed(CALL)), *[frame(CONTINUATION, 0, 1)] * 50_000),
    "a header that grows a hundredfold": spoken(
        frame(HEADERS, ALONE, 1, b"\x40\x01a\x7f\x81\x7e" + b"b" * 16_256 + b"\xbe" * 100)
    ),
    "data of no call": spoken(frame(DATA, 0, 0, b"x")),
    "data of a call that is not open": spoken(frame(DATA, 0, 5, b"x")),
    "a call of no number": spoken(frame(HEADERS, ALONE, 0, packed(CALL))),
    "a call of an even number": spoken(frame(HEADERS, ALONE, 2, packed(CALL))),
    "calls in falling order": spoken(*[frame(HEADERS, ALONE, i, packed(CALL)) for i in (5, 3)]),
    "a call in another's headers": spoken(frame(HEADERS, 0, 1, packed(CALL)), frame(HEADERS, ALONE, 3, packed(CALL))),
    "a frame of 16 MB": spoken(b"\xff\xff\xff\0\0\0\0\0\1" + b"a" * 100),
    "half a setting": spoken(frame(SETTINGS, payload=b"abc")),
    "an acknowledgement with settings": spoken(frame(SETTINGS, 1, payload=b"abcdef")),
    "settings of a call": spoken(frame(SETTINGS, stream=3)),
    "a window of 4 GB": spoken(frame(SETTINGS, payload=b"\0\4\xff\xff\xff\xff")),
    "frames of a byte": spoken(frame(SETTINGS, payload=b"\0\5\0\0\0\1")),
    "20,000 settings": spoken(*[frame(SETTINGS, payload=b"\0\3\0\0\0\x64")] * 20_000),
    "half a ping": spoken(frame(PING, payload=b"abc")),
    "5,000 pings": spoken(*[frame(PING, payload=b"abcdefgh")] * 5000),
    "no more window": spoken(frame(WINDOW_UPDATE, payload=b"\0\0\0\0")),
    "too much window": spoken(*[frame(WINDOW_UPDATE, payload=b"\x7f\xff\xff\xff")] * 2),
    "the end of no call": spoken(frame(RST_STREAM, stream=9, payload=b"\0\0\0\0")),
    "4,000 calls that are reset at once": spoken(
        *[frame(HEADERS, ALONE, i, packed(CALL)) + frame(RST_STREAM, 0, i, b"\0\0\0\x08") for i in range(1, 8001, 2)]
    ),
    "a frame of an unknown kind": spoken(frame(0x42, 0xFF, 1, b"abc")),
    "a goodbye": spoken(frame(GOAWAY, payload=b"\0" * 8)),
    "a push from a client": spoken(frame(5, END_HEADERS, 1, b"\0\0\0\2" + packed(CALL))),
    "no settings": PREFACE + frame(PING, payload=b"abcdefgh"),
    "a preface with another end": PREFACE[:-1] + b"x",
    "nothing after the preface": PREFACE,
    "half a frame": spoken(OPEN[:20]),
    "a call that is never said": spoken(OPEN),
    "HTTP/1.1": raw.request(),
    "a websocket": b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
}
"""What grpc does about these differs, such as to wait for more, or to close the connection; none is answered by OK."""


@pytest.fixture(scope="module")
def channel(service: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(service.address) as it:
        yield it


@pytest.fixture(scope="module")
def good(channel: grpc.Channel) -> bytes:
    return image(channel)


def status(got: bytes) -> bool:
    return grpc_status(got) is not None


def test_there_are_enough_cases() -> None:
    from . import test_bad_http, test_bad_input, test_http

    tables: list[Any] = [BAD, HARMLESS, test_bad_http.BAD, test_bad_input.BAD, test_http.BAD]
    assert sum(map(len, tables)) >= 200


def test_a_good_call_is_answered(service: Running) -> None:
    assert grpc_status(exchanged(service.address, call(MESSAGE), until=status)) == 0
    data, prefix = squeezed(gzip.compress(MESSAGE))
    assert grpc_status(exchanged(service.address, said(data, prefix, grpc_encoding="gzip"), until=status)) == 0


@pytest.mark.parametrize("name", BAD)
def test_has_the_right_status(service: Running, channel: grpc.Channel, good: bytes, name: str) -> None:
    sent, code = BAD[name]
    assert grpc_status(exchanged(service.address, sent, until=status)) == code
    assert image(channel) == good


@pytest.mark.parametrize("name", HARMLESS)
def test_harms_nobody(service: Running, channel: grpc.Channel, good: bytes, name: str) -> None:
    thrown_in(service.address, HARMLESS[name])
    assert image(channel) == good
    assert grpc_status(exchanged(service.address, call(MESSAGE), until=status)) == 0


def test_a_method_that_is_not_utf8_ends_grpcs_server_and_another_takes_its_place(
    tiny: str, caplog: pytest.LogCaptureFixture
) -> None:
    with running([tiny], Limits()) as it, Client(it.address) as client, ExitStack() as stack:
        expected = client.generate([3], [3])[0].data
        for _ in range(3):
            host, _, port = it.address.rpartition(":")
            attacker = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            attacker.sendall(said(__path="/\xff\xfe"))  # and stays connected
            assert eventually(lambda: "another one takes its place" in caplog.text)
            caplog.clear()
            assert client.generate([3], [3])[0].data == expected


def test_many_connections_that_say_nothing_keep_nobody_out(service: Running, good: bytes) -> None:
    host, _, port = service.address.rpartition(":")
    with ExitStack() as stack:
        for start in (b"", PREFACE[:10], PREFACE, spoken(OPEN)) * 50:
            stack.enter_context(socket.create_connection((host, int(port)), timeout=10)).sendall(start)
        with grpc.insecure_channel(service.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            assert image(channel) == good


def context(ca: str, **limits: Any) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=ca)
    made.set_alpn_protocols(["h2"])
    for name, value in limits.items():
        setattr(made, name, value)
    return made


def test_whoever_does_not_speak_tls_well_is_not_heard(tiny: str, tmp_path: Path) -> None:
    files, others = certificates(tmp_path / "ours"), certificates(tmp_path / "theirs")
    tls = {"tls_cert": files.server_cert, "tls_key": files.server_key, "tls_client_ca": files.ca}
    mine = {"ca": files.ca, "cert": files.client_cert, "key": files.client_key}
    with running([tiny], Limits(), **tls) as it, Client(Connection(it.address, **mine)) as client:
        expected = client.generate([3], [3])[0].data

        def heard(sent: bytes, of: ssl.SSLContext | None) -> int | None:
            return grpc_status(exchanged(it.address, sent, of, until=status))

        right = context(files.ca)
        right.load_cert_chain(files.client_cert, files.client_key)
        assert heard(call(MESSAGE), right) == 0
        strange = context(files.ca)
        strange.load_cert_chain(others.client_cert, others.client_key)
        old = context(files.ca, minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)
        one = context(files.ca)
        one.set_alpn_protocols(["http/1.1"])
        one.load_cert_chain(files.client_cert, files.client_key)
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
        for sent, of in [
            (call(MESSAGE), None),  # plain text
            (raw.request(), None),
            (hello + b"\0" * 64, None),
            (hello[:7], None),
            (hello + b"\xff" * 60_000, None),
            (b"\x16\x03\x01\xff\xff" + b"\0" * 70_000, None),
            (b"\x80\x2e\x01\x00\x02" + b"\0" * 41, None),  # SSL 2
            (b"\x15\x03\x01\x00\x02\x02\x28", None),  # an alert
            (call(MESSAGE), context(files.ca)),  # no certificate
            (call(MESSAGE), strange),
            (call(MESSAGE), old),
            (raw.request(), one),
        ]:
            if of is None:
                thrown_in(it.address, sent)
            else:
                assert heard(sent, of) != 0
            assert client.generate([3], [3])[0].data == expected
        with Client(Connection(it.address, **mine)) as new:
            assert new.generate([3], [3])[0].data == expected
