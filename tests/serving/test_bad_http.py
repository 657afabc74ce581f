"""Bytes on the HTTP port that are no good request: the right status for each, and the service goes on."""

import gzip
import socket
import time
import zlib
from contextlib import ExitStack

import pytest
import requests

from msd_ray.serving.service.request import Limits

from .conftest import Running, running
from .raw import JSON, exchanged, request, status_of
from .test_gateway import eventually

R = request
GET = "GET /v1/students HTTP/1.1"


def chunked(body: bytes, how: bytes = b"chunked") -> bytes:
    return R(headers=[b"Transfer-Encoding: " + how], body=body, length="")


def upgraded(line: str, *headers: bytes, to: bytes = b"websocket") -> bytes:
    raw = R(line, [b"Upgrade: " + to, *headers], b"", "")
    return raw.replace(b"Connection: close", b"Connection: Upgrade, close")


VERSION, KEY = b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
BAD: dict[str, tuple[bytes, int]] = {
    "GET where there is only POST": (R("GET /v1/generate HTTP/1.1", body=b""), 405),
    "POST where there is only GET": (R("POST /v1/students HTTP/1.1"), 405),
    "PUT": (R("PUT /v1/generate HTTP/1.1"), 405),
    "DELETE": (R("DELETE /v1/generate HTTP/1.1"), 405),
    "PATCH": (R("PATCH /v1/generate HTTP/1.1"), 405),
    "OPTIONS": (R("OPTIONS /v1/generate HTTP/1.1"), 405),
    "TRACE": (R("TRACE /v1/generate HTTP/1.1"), 405),
    "HEAD": (R("HEAD /v1/students HTTP/1.1", body=b""), 405),
    "CONNECT": (R("CONNECT here:443 HTTP/1.1", body=b""), 400),
    "a method that is none": (R("BREW /v1/generate HTTP/1.1"), 400),
    "a method in small letters": (R("post /v1/generate HTTP/1.1"), 400),
    "a version of HTTP there is not": (R("POST /v1/generate HTTP/3.0"), 400),
    "words": (b"hello there\r\n\r\n", 400),
    "zeros": (b"\0" * 4096, 400),
    "ones": (b"\xff" * 4096, 400),
    "the start of TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64, 400),
    "the start of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 400),
    "no path": (R("GET  HTTP/1.1", body=b""), 400),
    "a path with a space": (R("GET /v1/a b HTTP/1.1", body=b""), 400),
    "a path with a null": (R("GET /v1/\0 HTTP/1.1", body=b""), 400),
    "a path that is not UTF-8": (R("GET /v1/\xff\xfe HTTP/1.1", body=b""), 400),
    "a path of 200 kB": (R(f"GET /{'a' * 200_000} HTTP/1.1", body=b""), 400),
    "a path with an escaped null": (R("GET /v1/%00 HTTP/1.1", body=b""), 404),
    "half an escape": (R("GET /v1/%zz HTTP/1.1", body=b""), 404),
    "a star": (R("GET * HTTP/1.1", body=b""), 404),
    "a way out": (R("GET /../../etc/passwd HTTP/1.1", body=b""), 404),
    "an escaped way out": (R("GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1", body=b""), 404),
    "a version that is a path": (R("GET /v1/students?version=../../x HTTP/1.1", body=b""), 404),
    "a version of 30 kB": (R(f"GET /v1/students?version={'v' * 30_000} HTTP/1.1", body=b""), 404),
    "two versions": (R("GET /v1/students?version=a&version=b HTTP/1.1", body=b""), 404),
    "a version that is not UTF-8": (R("GET /v1/students?version=%ff%fe HTTP/1.1", body=b""), 404),
    "a negative length": (R(length="-1"), 400),
    "a length with a sign": (R(length="+33"), 400),
    "a length in words": (R(length="many"), 400),
    "a length of 23 digits": (R(length="9" * 23), 400),
    "two lengths": (R(headers=[b"Content-Length: 3"]), 400),
    "a length that is too short": (R(length="5"), 400),
    "a length and chunks": (R(headers=[b"Transfer-Encoding: chunked"], body=b"0\r\n\r\n"), 400),
    "a second request in chunks": (
        R(headers=[b"Transfer-Encoding: chunked"], body=b"0\r\n\r\nGET /v1/students HTTP/1.1\r\nHost: x\r\n\r\n"),
        400,
    ),
    "a chunk without a size": (chunked(b"zz\r\nabc\r\n0\r\n\r\n"), 400),
    "a chunk of 18 digits": (chunked(b"f" * 18 + b"\r\nabc"), 400),
    "an encoding that is not chunks": (chunked(JSON, b"gzip"), 400),
    "an encoding there is not": (chunked(JSON, b"xchunked"), 400),
    "too many bytes in chunks": (chunked(b"1388\r\n" + b" " * 5000 + b"\r\n0\r\n\r\n"), 413),
    "a header without a colon": (R(headers=[b"nonsense"]), 400),
    "a space before the colon": (R(headers=[b"X-A : b"]), 400),
    "a null in a header": (R(headers=[b"X-A: b\0c"]), 400),
    "a null in a name": (R(headers=[b"X\0A: b"]), 400),
    "a folded header": (R(headers=[b"X-A: b\r\n c"]), 400),
    "a bare carriage return": (R(headers=[b"X-A: b\rc"]), 400),
    "bare line feeds": (R().replace(b"\r\n", b"\n"), 400),
    "a header of 2 MB": (R(headers=[b"X-A: " + b"a" * 2_000_000]), 431),
    "20,000 headers": (R(headers=[b"X-%d: a" % i for i in range(20_000)]), 431),
    "a header 20,000 times": (R(headers=[b"X-A: abc"] * 20_000), 431),
    "a token of 100 kB": (R(headers=[b"Authorization: Bearer " + b"a" * 100_000]), 431),
    "compressed JSON": (R(headers=[b"Content-Encoding: gzip"], body=gzip.compress(JSON)), 400),
    "2 MB of spaces in 2 kB": (R(headers=[b"Content-Encoding: gzip"], body=gzip.compress(b" " * 2_000_000)), 400),
    "2 MB of brackets in 2 kB": (R(headers=[b"Content-Encoding: deflate"], body=zlib.compress(b"[" * 2_000_000)), 400),
    "a form": (R(headers=[b"Content-Type: application/x-www-form-urlencoded"], body=b"conditions=0"), 400),
    "half a multipart": (R(headers=[b"Content-Type: multipart/form-data; boundary=x"], body=b"--x\r\n"), 400),
    "XML with an entity": (R(body=b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>'), 400),
    "UTF-16": (R(body='{"conditions": [0]}'.encode("utf-16")), 400),
    "UTF-32": (R(body='{"conditions": [0]}'.encode("utf-32")), 400),
    "JSON after a mark": (R(body=b"\xef\xbb\xbf" + JSON), 400),
    "JSON twice": (R(body=JSON + JSON), 400),
    "a websocket": (upgraded("GET /v1/generate HTTP/1.1", VERSION, KEY), 403),
    "a websocket of the playground": (upgraded("GET / HTTP/1.1", VERSION, KEY), 403),
    "a websocket without a key": (upgraded("GET /v1/generate HTTP/1.1", VERSION), 400),
    "a websocket of an old version": (upgraded("GET /v1/generate HTTP/1.1", b"Sec-WebSocket-Version: 7", KEY), 400),
    "an upgrade of a POST": (upgraded("POST /v1/students HTTP/1.1", VERSION, KEY), 405),
}
HARMLESS: dict[str, tuple[bytes, int]] = {
    "an upgrade to HTTP/2": (upgraded(GET, b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", to=b"h2c"), 200),
    "another host in the path": (R("GET http://elsewhere/v1/students HTTP/1.1", body=b""), 200),
    "conditions in the address": (R("POST /v1/generate?conditions=3 HTTP/1.1"), 200),
    "6,000 ranges": (R(GET, [b"Range: bytes=0-1," + b"1-2," * 6000], b"", ""), 200),
    "1,000 cookies": (R(headers=[b"Cookie: " + b"a=b; " * 1000]), 200),
    "a token that is not UTF-8, where none is needed": (R(headers=[b"Authorization: Bearer \xff\xfe"]), 200),
}
"""Strange, but allowed: the answer is that of the same request without it."""


@pytest.fixture(scope="module")
def good(service: Running) -> bytes:
    return image(service)


def image(service: Running) -> bytes:
    answer = requests.post(f"{service.url}/v1/generate", data=JSON, timeout=30)
    return str(answer.json()["images"][0]["data"]).encode()


def at(service: Running) -> str:
    return service.url.removeprefix("http://")


@pytest.mark.parametrize("name", [*BAD, *HARMLESS])
def test_has_the_right_status(service: Running, good: bytes, name: str) -> None:
    raw, status = (BAD | HARMLESS)[name]
    ends = status_of if name == "an upgrade to HTTP/2" else lambda got: False  # it keeps the connection
    answer = exchanged(at(service), raw, until=ends)
    assert status_of(answer) == status, answer[-300:]
    assert b"Traceback" not in answer and b"site-packages" not in answer
    assert image(service) == good


def test_a_body_that_does_not_come_is_given_up(tiny: str, caplog: pytest.LogCaptureFixture) -> None:
    with running([tiny], Limits(seconds=1.0)) as it:
        answer = exchanged(at(it), R(length="1000"))
    assert status_of(answer) == 504 and b"did not come within 1 s" in answer
    assert not [record for record in caplog.records if record.exc_info]


def test_a_body_that_ends_early_is_not_an_error_of_the_service(
    service: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="msd_ray.access")
    for raw in (R(length="1000"), chunked(b"5\r\nab"), R("POST /v1/generate/stream HTTP/1.1", length="1000")):
        host, _, port = at(service).rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(raw)
            time.sleep(0.2)
    assert eventually(lambda: len(caplog.messages) == 3)
    assert all('"code": "INVALID_ARGUMENT"' in line for line in caplog.messages)
    assert not [record for record in caplog.records if record.exc_info]


def test_many_slow_connections_do_not_keep_others_out(service: Running, good: bytes) -> None:
    """The start of a request on each, and a byte more now and then."""
    host, _, port = at(service).rpartition(":")
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection((host, int(port)), timeout=10)) for _ in range(200)]
        for connection in slow:
            connection.sendall(b"POST /v1/generate HTTP/1.1\r\nHost: here\r\nX-A: ")
        for _ in range(3):
            assert image(service) == good
            for connection in slow:
                connection.sendall(b"X")
    assert image(service) == good
