"""Certificates of a small authority, for 127.0.0.1."""

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Files:
    ca: str
    server_cert: str
    server_key: str
    client_cert: str
    client_key: str


def certificates(where: Path) -> Files:
    """An authority, and a server's and a client's certificate that it signed."""
    where.mkdir()
    authority = ec.generate_private_key(ec.SECP256R1())
    ca = _signed("authority", authority, authority, is_ca=True)
    paths = [_written(where / "ca.pem", ca.public_bytes(serialization.Encoding.PEM))]
    for name in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        cert = _signed(name, key, authority, is_ca=False)
        paths.append(_written(where / f"{name}.pem", cert.public_bytes(serialization.Encoding.PEM)))
        paths.append(_written(where / f"{name}.key", _pem(key)))
    return Files(*paths)


def _signed(name: str, key: Key, by: Key, is_ca: bool) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    now = dt.datetime.now(dt.UTC)
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
        .add_extension(here, critical=False)
        .sign(by, hashes.SHA256())
    )


def _pem(key: Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _written(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)
