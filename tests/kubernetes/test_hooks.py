"""What runs inside pods: the preStop hook, the probe, the caller of `helm test`."""

import datetime as dt
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from msd_ray.kubernetes.drain import POD, command_lines, drain, node_of
from msd_ray.kubernetes.probe import raylet_lives, serving

TRAIN = "/opt/venv/bin/python /opt/venv/bin/msd-ray train digits --run-dir s3://bucket/runs/digits"


class Pod:
    """Processes of which one is gone after each look."""

    def __init__(self, *titles: str) -> None:
        self.titles, self.told = list(titles), list[int]()

    def look(self) -> dict[int, str]:
        seen = dict(enumerate(self.titles))
        if self.titles and self.looks:
            self.titles.pop()
        self.looks += 1
        return seen

    looks = 0


def test_it_waits_for_students_and_tells_the_driver() -> None:
    pod = Pod("raylet --node_ip=10.0.0.1", TRAIN, "ray::Slot.advance")
    assert drain(5, pod.look, pod.told.append, pause=0) == []
    assert pod.told == [1]
    assert pod.looks == 4, "it looked until both were gone"


def test_the_shell_around_a_driver_is_left_alone() -> None:
    pod = Pod(TRAIN, "/bin/sh -c msd-ray train digits --run-dir s3://bucket/runs/digits")
    assert drain(5, pod.look, pod.told.append, pause=0) == []
    assert pod.told == [0]


@pytest.mark.parametrize(
    "title", ["ray::ServeReplica:msd-ray:Gateway", "ray::Slot", TRAIN, "python -m msd_ray sweep x.yaml"]
)
def test_it_says_what_was_still_at_work(title: str) -> None:
    assert drain(0, lambda: {7: title}, lambda pid: None, pause=0) == [title]


def test_it_waits_for_nothing_else() -> None:
    others = {1: "ray::IDLE", 2: "raylet", 3: "gcs_server", 4: "python -m ray.dashboard", 5: "msd-ray status x"}
    assert drain(60, lambda: others, lambda pid: pytest.fail("nobody is to be told")) == []


def test_it_sees_the_pods_own_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(POD, "worker-1")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "msd-ray train digits"]) as child:
        while not command_lines().get(child.pid):  # between fork and exec it has none
            time.sleep(0.01)
        assert "msd-ray train digits" in command_lines()[child.pid]
        monkeypatch.setenv(POD, "worker-2")
        assert child.pid not in command_lines()
        child.kill()


def test_the_head_is_not_drained() -> None:
    raylet = "/opt/venv/lib/ray/core/src/ray/raylet/raylet --raylet_socket_name=x --node-id=00ff --head"
    assert node_of([raylet, "ray::IDLE"]) == "00ff"
    assert node_of([raylet, "/opt/venv/lib/ray/core/src/ray/gcs/gcs_server --log_dir=x"]) == ""
    assert node_of(["ray::IDLE"]) == ""


class Agent(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/well" else 503)
        self.end_headers()
        self.wfile.write(b"success" if self.path == "/well" else b"no")

    def log_message(self, *of_a_request: object) -> None:
        pass


def test_the_raylets_health(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody is there
    with HTTPServer(("127.0.0.1", 0), Agent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{server.server_port}"
        assert raylet_lives(f"{at}/well")
        assert not raylet_lives(f"{at}/ill")
        server.shutdown()
    assert not raylet_lives(f"{at}/well")


@contextmanager
def gateway(status: int, credentials: grpc.ServerCredentials | None = None) -> Iterator[int]:
    """The port of a server that says so of its health."""
    server, said = grpc.server(ThreadPoolExecutor(1)), health.HealthServicer()
    said.set("", status)
    health_pb2_grpc.add_HealthServicer_to_server(said, server)
    add = server.add_insecure_port
    port = server.add_secure_port("127.0.0.1:0", credentials) if credentials else add("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None)


def certificate(where: Path, name: str) -> tuple[str, grpc.ServerCredentials]:
    """A certificate that signed itself, made for a name."""
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (where / "tls.crt").write_bytes(pem)
    return str(where / "tls.crt"), grpc.ssl_server_credentials([(private, pem)])


def test_a_gateway_is_ready_once_it_serves() -> None:
    with gateway(health_pb2.HealthCheckResponse.SERVING) as port:
        assert serving(port, "")
    with gateway(health_pb2.HealthCheckResponse.NOT_SERVING) as port:
        assert not serving(port, "")


def test_over_tls_any_name_is_taken_but_not_any_certificate(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other, _ = certificate(tmp_path / "other", "elsewhere.svc")
    own, credentials = certificate(tmp_path, "demo-ensemble.team.svc")
    with gateway(health_pb2.HealthCheckResponse.SERVING, credentials) as port:
        assert serving(port, own)
        assert not serving(port, other)


def test_a_gateway_that_is_not_there_is_not_ready() -> None:
    assert not serving(9, "", seconds=0.5)


def test_the_caller_says_in_one_line_what_is_wrong() -> None:
    command = [sys.executable, "-m", "msd_ray.kubernetes.call", "127.0.0.1:9", "--seconds", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("error: UNAVAILABLE") or done.stderr.startswith("error: DEADLINE_EXCEEDED")
    assert "Traceback" not in done.stderr
