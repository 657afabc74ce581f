"""Whatever comes over the wire is answered with the right status, and the service is unharmed."""

import random
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from msd_ray.serving.generated import ensemble_pb2 as pb

from .conftest import Running

SERVICE = "/msd.v1.EnsembleService"
WRONG, ABSENT, TOO_MUCH, NO_SUCH = "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"
ONE = pb.GenerateRequest(conditions=[pb.Condition(class_id=3)], seeds=[3])


def asked(*class_ids: int, **fields: Any) -> bytes:
    request = pb.GenerateRequest(conditions=[pb.Condition(class_id=c) for c in class_ids], **fields)
    return bytes(request.SerializeToString())


def prompted(prompt: bytes) -> bytes:
    """A request with one prompt, of any bytes: field 2 in field 1."""
    inner = b"\x12" + bytes([len(prompt)]) + prompt
    return b"\x0a" + bytes([len(inner)]) + inner


def seeded(varint: bytes) -> bytes:
    """Class 0 with a seed as raw varint: field 2, unpacked."""
    return asked(0) + b"\x10" + varint


BAD: dict[str, tuple[str, bytes, str]] = {
    "nothing at all": ("Generate", b"", WRONG),
    "no conditions": ("Generate", asked(seeds=[1]), WRONG),
    "an empty condition": ("Generate", b"\x0a\x00", WRONG),
    "a class too high": ("Generate", asked(10), WRONG),
    "the highest class number": ("Generate", asked(2**32 - 1), WRONG),
    "one bad class among good ones": ("Generate", asked(0, 1, 99), WRONG),
    "one image too many": ("Generate", asked(*[0] * 33), WRONG),
    "many images too many": ("Generate", asked(*[0] * 900), WRONG),
    "fewer seeds": ("Generate", asked(0, 1, seeds=[1]), WRONG),
    "more seeds": ("Generate", asked(0, seeds=[1, 2]), WRONG),
    "a negative seed": ("Generate", asked(0, seeds=[-1]), WRONG),
    "the most negative seed": ("Generate", asked(0, seeds=[-(2**63)]), WRONG),
    "a seed of eleven bytes": ("Generate", seeded(b"\xff" * 10 + b"\x01"), WRONG),
    "an unknown format": ("Generate", asked(0, format=9), WRONG),
    "a negative format": ("Generate", asked(0, format=-1), WRONG),
    "an unknown label": ("Generate", prompted(b"a cat"), WRONG),
    "an empty label": ("Generate", prompted(b""), WRONG),
    "a label in other letters": ("Generate", prompted(b"DIGIT 1"), WRONG),
    "a label with a null": ("Generate", prompted(b"digit 1\0"), WRONG),
    "a path": ("Generate", prompted(b"../../etc/passwd"), WRONG),
    "a format string": ("Generate", prompted(b"%s%n{0.__class__}"), WRONG),
    "a label that is not UTF-8": ("Generate", prompted(b"\xff\xfe"), WRONG),
    "half a surrogate": ("Generate", prompted(b"\xed\xa0\x80"), WRONG),
    "an overlong slash": ("Generate", prompted(b"\xc0\xaf"), WRONG),
    "half a message": ("Generate", asked(0, 1, 2)[:-1], WRONG),
    "a length beyond the end": ("Generate", b"\x0a\xff\xff\xff\x7f", WRONG),
    "a wrong wire type": ("Generate", b"\x0b\x0b\x0b", WRONG),
    "field number zero": ("Generate", b"\x00\x01", WRONG),
    "text": ("Generate", b"GET / HTTP/1.1\r\n\r\n", WRONG),
    "JSON": ("Generate", b'{"conditions": [0]}', WRONG),
    "a pickle": ("Generate", b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.", WRONG),
    "zeros": ("Generate", b"\0" * 100, WRONG),
    "groups in groups": ("Generate", b"\x0b" * 3000, WRONG),
    "a message too large": ("Generate", b"\x2a" + b"\x00" * 5000, TOO_MUCH),
    "a far too large message": ("Generate", b"\0" * 3_000_000, TOO_MUCH),
    "an unknown version": ("Generate", asked(0, version="v9"), ABSENT),
    "a version that is a path": ("Generate", asked(0, version="/etc/passwd"), ABSENT),
    "a very long version": ("Generate", asked(0, version="v" * 2000), ABSENT),
    "no conditions, streaming": ("GenerateStream", b"", WRONG),
    "a class too high, streaming": ("GenerateStream", asked(10), WRONG),
    "too many images, streaming": ("GenerateStream", asked(*[0] * 33), WRONG),
    "an unknown version, streaming": ("GenerateStream", asked(0, version="v9"), ABSENT),
    "half a message, streaming": ("GenerateStream", asked(0, 1, 2)[:-1], WRONG),
    "a label that is not UTF-8, streaming": ("GenerateStream", prompted(b"\xff"), WRONG),
    "a message too large, streaming": ("GenerateStream", b"\x2a" + b"\x00" * 5000, TOO_MUCH),
    "students of an unknown version": ("ListStudents", pb.ListStudentsRequest(version="x").SerializeToString(), ABSENT),
    "students of a version not in UTF-8": ("ListStudents", b"\x0a\x01\xff", WRONG),
    "students of half a message": ("ListStudents", b"\x0a\x05x", WRONG),
    "an ensemble of half a message": ("GetEnsemble", b"\x0a\x05x", WRONG),
    "a method there is not": ("Erase", b"", NO_SUCH),
    "a method in other letters": ("generate", b"", NO_SUCH),
}


@pytest.fixture(scope="module")
def channel(service: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(service.address) as it:
        yield it


def failure(channel: grpc.Channel, method: str, raw: bytes, **call: Any) -> grpc.RpcError:
    """How the call of a method with these bytes fails."""
    path, streams = f"{SERVICE}/{method}", method == "GenerateStream"
    made = channel.unary_stream(path) if streams else channel.unary_unary(path)
    with pytest.raises(grpc.RpcError) as told:
        list(made(raw, timeout=20, **call))
    return told.value


def details(error: grpc.RpcError) -> dict[str, Any]:
    """The google.rpc details of an error, by their names."""
    status = next(status_pb2.Status.FromString(v) for k, v in error.trailing_metadata() if k == KEY)
    assert status.message == error.details()
    found = {}
    for packed in status.details:
        detail = getattr(error_details_pb2, packed.TypeName().rpartition(".")[2])()
        assert packed.Unpack(detail)
        found[type(detail).__name__] = detail
    return found


KEY = rpc_status.GRPC_DETAILS_METADATA_KEY


def test_there_are_enough_cases() -> None:
    assert len(BAD) >= 50


@pytest.fixture(scope="module")
def good(channel: grpc.Channel) -> bytes:
    return image(channel)


def image(channel: grpc.Channel) -> bytes:
    raw = channel.unary_unary(f"{SERVICE}/Generate")(ONE.SerializeToString(), timeout=20)
    return bytes(pb.GenerateResponse.FromString(raw).images[0].data)


@pytest.mark.parametrize("name", BAD)
def test_is_refused_with_the_right_status(channel: grpc.Channel, good: bytes, name: str) -> None:
    method, raw, code = BAD[name]
    error = failure(channel, method, raw)
    assert error.code().name == code, error.details()
    told = str(error.details())
    assert "\n" not in told and "Traceback" not in told and "/site-packages/" not in told
    if code in (WRONG, ABSENT):
        assert details(error)["ErrorInfo"].domain == "msd.v1"
    assert image(channel) == good


def test_the_wrong_field_is_named(channel: grpc.Channel) -> None:
    found = details(failure(channel, "Generate", asked(0, 1, 99), metadata=(("x-request-id", "mine-7"),)))
    (violation,) = found["BadRequest"].field_violations
    assert violation.field == "conditions[2]"
    assert "0 to 9" in violation.description
    assert found["RequestInfo"].request_id == "mine-7"


def test_free_text_is_refused_with_what_can_be_asked_for(channel: grpc.Channel) -> None:
    error = failure(channel, "Generate", prompted(b"a photo of a cat"))
    (violation,) = details(error)["BadRequest"].field_violations
    assert (error.code().name, violation.field) == (WRONG, "conditions[0]")
    assert "; GetEnsemble lists the labels" in violation.description


@pytest.mark.parametrize("sent", ["", "a b", "x" * 65, "a\tb"])
def test_a_request_gets_an_id_of_its_own_where_it_has_no_sensible_one(channel: grpc.Channel, sent: str) -> None:
    found = details(failure(channel, "Generate", b"", metadata=(("x-request-id", sent.replace("\t", "~")),)))
    assert len(found["RequestInfo"].request_id) == 32


def test_fuzzed_messages_are_refused_or_answered(channel: grpc.Channel, good: bytes) -> None:
    rng, call = random.Random(0), channel.unary_unary(f"{SERVICE}/Generate")
    whole = asked(0, 1, 2, seeds=[1, 2, 3], format=3, version="")
    codes = set()
    for _ in range(300):
        raw = bytearray(rng.choice([whole, prompted(b"digit 3"), rng.randbytes(rng.randrange(60))]))
        for _ in range(rng.randrange(1, 4)):
            raw[rng.randrange(len(raw) or 1) : rng.randrange(len(raw) + 1)] = rng.randbytes(rng.randrange(3))
        try:
            pb.GenerateResponse.FromString(call(bytes(raw), timeout=20))
            codes.add("OK")
        except grpc.RpcError as error:
            codes.add(error.code().name)
    assert codes <= {"OK", WRONG, ABSENT}
    assert image(channel) == good


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,  # the start of a TLS greeting
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 200,
        b"\0" * 4096,
    ],
)
def test_what_is_no_grpc_at_all_harms_nobody(service: Running, channel: grpc.Channel, good: bytes, raw: bytes) -> None:
    host, port = service.address.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
    assert image(channel) == good
