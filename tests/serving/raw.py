"""Bytes on a socket, as no well-behaved client would send them."""

import re
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

JSON = b'{"conditions": [0], "seeds": [0]}'


def exchanged(
    address: str,
    sent: bytes,
    tls: ssl.SSLContext | None = None,
    until: Callable[[bytes], object] = lambda got: False,
    seconds: float = 30.0,
) -> bytes:
    """What comes back until that is enough, or the server closes or resets the connection, or the time is over.
    address: host:port."""
    host, _, port = address.rpartition(":")
    got, end = b"", time.monotonic() + seconds
    with socket.create_connection((host, int(port)), timeout=seconds) as connection, suppress(OSError):
        if tls:
            connection = tls.wrap_socket(connection, server_hostname=host)
        connection.sendall(sent)
        while not until(got) and time.monotonic() < end and (more := connection.recv(1 << 16)):
            got += more
    return got


def thrown_in(address: str, sent: bytes) -> None:
    """Sent on a connection that is closed at once."""
    exchanged(address, sent, until=lambda got: True)


def request(
    line: str = "POST /v1/generate HTTP/1.1",
    headers: Sequence[bytes] = (),
    body: bytes = JSON,
    length: str | None = None,
    host: bytes | None = b"Host: here",
) -> bytes:
    """A request of HTTP/1.1 that asks for the connection to be closed. length: what it says of its body; None for the
    truth."""
    length = str(len(body)) if length is None else length
    lines = [line.encode("latin-1"), *([host] if host else []), b"Connection: close", *headers]
    if length:
        lines.append(f"Content-Length: {length}".encode())
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def status_of(answer: bytes) -> int:
    """Of an answer of HTTP/1.1; 0 if there is none."""
    words = answer.split(b" ", 2)
    return int(words[1]) if answer.startswith(b"HTTP/1.") and len(words) > 1 else 0


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4
CALL = {
    ":method": "POST",
    ":scheme": "http",
    ":path": "/msd.v1.EnsembleService/Generate",
    ":authority": "here",
    "content-type": "application/grpc",
    "te": "trailers",
}


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def packed(fields: dict[str, str]) -> bytes:
    """HPACK, each field as a literal that is not indexed."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())


def call(message: bytes = b"", fields: dict[str, str] | None = None, prefix: bytes | None = None) -> bytes:
    """A connection of HTTP/2 with one call of gRPC. fields: instead of CALL's. prefix: of the message, if not the right
    one."""
    prefix = b"\0" + len(message).to_bytes(4, "big") if prefix is None else prefix
    start = PREFACE + frame(SETTINGS) + frame(HEADERS, END_HEADERS, 1, packed(fields or CALL))
    return start + frame(DATA, END_STREAM, 1, prefix + message)


def frames(answer: bytes) -> list[tuple[int, bytes]]:
    """Kind and payload of each whole frame."""
    found = []
    while len(answer) >= 9 + int.from_bytes(answer[:3], "big"):
        length = int.from_bytes(answer[:3], "big")
        found.append((answer[3], answer[9 : 9 + length]))
        answer = answer[9 + length :]
    return found


def grpc_status(answer: bytes) -> int | None:
    """As trailers have it the first time on a connection; gRPC writes such fields without Huffman's code."""
    found = re.search(rb"grpc-status[\x01\x02](\d{1,2})", answer)
    return int(found.group(1)) if found else None


def _text(text: str) -> bytes:
    """A string of HPACK: its length as an integer with a prefix of 7 bits, then its bytes."""
    data, n = text.encode("latin-1"), len(text)
    if n < 127:
        return bytes([n]) + data
    n, length = n - 127, b"\x7f"
    while n > 127:
        length, n = length + bytes([n % 128 + 128]), n // 128
    return length + bytes([n]) + data
