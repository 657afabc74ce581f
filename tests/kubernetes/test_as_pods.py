"""What the pods of a release would run, run here as processes: the same command lines and environment, in the order in
which KubeRay and Kubernetes start and end them. There is no Kubernetes in it.

`ray start` of several nodes listens on all interfaces, so all of it is in a network namespace that has loopback alone.
"""

import json
import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from msd_ray.errors import MsdRayError
from msd_ray.kubernetes.probe import raylet_lives
from msd_ray.kubernetes.release_values import sweeping
from msd_ray.runs.journal import read_journal
from msd_ray.runs.run_status import read_status
from msd_ray.storage import Store, read_manifest

from ..s3.running import S3
from .rendering import ROOT, helm, render

pytestmark = [pytest.mark.ray, pytest.mark.nightly, pytest.mark.timeout(1800)]
ALONE = "MSD_RAY_TESTS_ALONE"
BIN = Path(sys.executable).parent
TINY = ROOT / "tests" / "faults" / "tiny.yaml"
SHORT = [
    "teacher.images=640", "stages.dm.images=7680", "stages.adm.images=64", "training.checkpoint_every=1280",
    "partition.k=2", "evaluation.samples=100", "evaluation.curve_samples=40",
]  # fmt: skip
GRACE = 60


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def pods_of(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and group of each pod of a RayClusterSpec, the head first."""
    yield "head", spec["headGroupSpec"]
    for group in spec["workerGroupSpecs"]:
        for i in range(group["replicas"]):
            yield f"{group['groupName']}-{i}", group


@dataclass
class Cluster:
    """Pods as processes. Ports that a pod has to itself are drawn, since all share one machine."""

    environment: dict[str, str]
    gcs: int = field(default_factory=free_port)
    dashboard: int = field(default_factory=free_port)
    pods: dict[str, tuple[subprocess.Popen[bytes], dict[str, str], dict[str, Any]]] = field(default_factory=dict)

    def start(self, spec: dict[str, Any]) -> None:
        for name, group in pods_of(spec):
            self.start_pod(name, group)

    def start_pod(self, name: str, group: dict[str, Any]) -> None:
        (container,) = group["template"]["spec"]["containers"]
        said = {e["name"]: e["value"] for e in container["env"] if "value" in e}
        said |= {"MSD_RAY_POD": name, "RAY_ADDRESS": f"127.0.0.1:{self.gcs}", "HOME": os.environ["HOME"]}
        environment = self.environment | said
        command = shlex.join(self.ray_start(name, group["rayStartParams"], container))
        # KubeRay unquotes the parameters in a shell, as here
        process = subprocess.Popen(["bash", "-c", f"exec {command}"], env=environment, start_new_session=True)
        self.pods[name] = process, environment, container
        if name != "head":  # two at once would take the same socket, which pods with a /tmp of their own do not
            agent = re.search(r"--dashboard-agent-listen-port=(\d+)", command)
            assert agent
            wait_for(lambda: raylet_lives(f"http://127.0.0.1:{agent[1]}/api/local_raylet_healthz"), 120)
        else:
            wait_for(lambda: ask(f"http://127.0.0.1:{self.dashboard}/api/gcs_healthz", environment), 60)

    def ray_start(self, name: str, params: dict[str, str], container: dict[str, Any]) -> list[str]:
        """As KubeRay makes it of rayStartParams and the container's limits."""
        said = {"num-cpus": container["resources"]["limits"]["cpu"], **params}
        if "resources" in said:
            said["resources"] = json.loads(said["resources"])
        words = [
            "ray",
            "start",
            "--block",
            *(f"--{key}={value}" for key, value in said.items() if key != "dashboard-host"),
        ]
        words += [f"--dashboard-agent-listen-port={free_port()}", f"--metrics-export-port={free_port()}"]
        words += ["--node-ip-address=127.0.0.1"]
        if name != "head":
            return [*words, f"--address=127.0.0.1:{self.gcs}"]
        ports = [f"--port={self.gcs}", f"--dashboard-port={self.dashboard}", f"--ray-client-server-port={free_port()}"]
        return [*words, "--head", *ports]

    def end_pod(self, name: str, after_hook: Callable[[], object] = lambda: None) -> float:
        """As Kubernetes ends a pod: its hook, then SIGTERM, then SIGKILL once the grace period is over. Seconds that
        it took."""
        process, environment, container = self.pods.pop(name)
        began = time.monotonic()
        hook = [sys.executable, *container["lifecycle"]["preStop"]["exec"]["command"][1:]]
        subprocess.run(hook, env=environment, timeout=GRACE, check=True)
        after_hook()
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(max(1.0, GRACE - (time.monotonic() - began)))
        finally:
            kill_pod(name, environment)
        return time.monotonic() - began

    def run(self, command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """What the submitter's pod runs."""
        environment = self.environment | {
            "RAY_ADDRESS": f"http://127.0.0.1:{self.dashboard}",
            "MSD_RAY_POD": "submitter",
        }
        return subprocess.run(
            shlex.split(command), env=environment, capture_output=True, text=True, timeout=400, check=False, **options
        )

    def ended_job(self, name: str) -> dict[str, Any] | None:
        """What Ray says of a job whose driver has ended, which KubeRay asks for."""
        found = ask(f"http://127.0.0.1:{self.dashboard}/api/jobs/{name}", self.environment)
        info: dict[str, Any] = json.loads(found or "{}")
        return info if info.get("driver_exit_code") is not None else None

    def close(self) -> None:
        for name, (_, environment, _) in self.pods.items():
            kill_pod(name, environment)


def kill_pod(name: str, environment: dict[str, str]) -> None:
    for entry in Path("/proc").iterdir():
        try:
            said = (entry / "environ").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        mine = {f"MSD_RAY_POD={name}".encode(), f"RAY_AUTH_TOKEN={environment['RAY_AUTH_TOKEN']}".encode()}
        if mine <= set(said):
            os.kill(int(entry.name), signal.SIGKILL)


def ask(url: str, environment: dict[str, str]) -> bytes | None:
    """What the dashboard answers; None where it does not."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {environment['RAY_AUTH_TOKEN']}"})
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return bytes(answer.read())
    except OSError:
        return None


def wait_for(what: Callable[[], Any], seconds: float) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.2)
    return found


@pytest.fixture
def cluster(s3: S3) -> Iterator[Cluster]:
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    environment.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None)  # with it Ray refuses a second node
    made = Cluster(dict(environment))
    yield made
    made.close()


def values(s3: S3, *more: str) -> list[str]:
    """A release whose storage is the suite's S3 server, small enough for this machine."""
    said = {
        "storage.runs": "s3://bucket/runs",
        "storage.cache": "s3://bucket/cache",
        "storage.objectStore.endpoint": f"http://127.0.0.1:{s3.port}",
        "storage.objectStore.region": "us-east-1",
        "cluster.graceSeconds": str(GRACE),
        "cluster.workers.cpu.replicas": "1",
    }
    return [
        word for key, value in said.items() for word in ("--set-string" if "." in value else "--set", f"{key}={value}")
    ] + list(more)


def weights(where: str) -> dict[str, str]:
    return {name: entry.sha256 for name, entry in read_manifest(Store(where)).files.items()}


@pytest.mark.parametrize("inner", ["test_train_end_pods_resume_and_serve", "test_a_sweep_and_its_best"])
def test_what_pods_run(inner: str) -> None:
    """One of the next tests, in a namespace of its own."""
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespace may be made here")
    helm()  # skips here where there is none
    words = [sys.executable, "-m", "pytest", "-v", f"{__file__}::{inner}"]  # by -k this test would find itself
    command = ["unshare", "-n", "bash", "-c", f"ip link set lo up && exec {shlex.join(words)}"]
    done = subprocess.run(command, env=os.environ | {ALONE: "1"}, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, "\n".join(re.findall("^[>E] .*", done.stdout, re.M))


alone = pytest.mark.skipif(ALONE not in os.environ, reason="runs inside of test_what_pods_run")


@alone
def test_train_end_pods_resume_and_serve(cluster: Cluster, s3: S3, tmp_path: Path) -> None:
    """RayJob on digits; a worker's pod ends in the middle, then the head's; the job again; then a RayService."""
    overrides = json.dumps(SHORT)
    objects = render(*values(s3, "--set", "train.enabled=true", "--set-json", f"train.overrides={overrides}"))
    (job,) = [found["spec"] for found in objects if found["kind"] == "RayJob"]
    spec = job["rayClusterSpec"]
    cluster.start(spec)
    submit = f"ray job submit --submission-id {{}} -- {job['entrypoint']}"
    first = wait_for(lambda: cluster.run(submit.format("one --no-wait")).returncode == 0, 60)
    assert first
    where = s3.uri("bucket/runs/digits")
    run = Store(where)
    wait_for(lambda: _images(run), 200)

    assert cluster.end_pod("cpu-0") < GRACE
    kept = {name: run.child("students").child(name).names() for name in run.child("students").names()}
    assert any(kept.values()), "students wrote checkpoints before their pod ended"
    wait_for(lambda: "slot leaving" in _events(run), 30)  # written a little later
    saved = _images(run)
    cluster.start_pod("cpu-1", spec["workerGroupSpecs"][0])
    wait_for(lambda: _images(run) > saved, 100)

    ended = dict[str, Any]()
    took = cluster.end_pod("head", lambda: ended.update(wait_for(lambda: cluster.ended_job("one"), 20)))
    assert took < GRACE, "the driver ended with a checkpoint"
    assert ended["driver_exit_code"] == 143
    assert ended["status"] == "FAILED", "so that KubeRay starts another cluster, which goes on"
    assert "stopped" in json.dumps(json.loads(run.read("status.json")))
    cluster.close()

    again = Cluster(cluster.environment)
    try:
        again.start(spec)
        done = wait_for(lambda: _finished(again.run(submit.format("two"))), 300)
        assert "succeeded" in done.stdout, done.stdout[-2000:]
        assert weights(s3.uri("bucket/runs/digits/ensemble")) == _undisturbed(tmp_path)
    finally:
        again.close()
    _serve(s3)


@alone
def test_a_sweep_and_its_best(cluster: Cluster, s3: S3, tmp_path: Path) -> None:
    """The RayJob that `submit sweep` renders, of a definition and a recipe that go along as a ConfigMap."""
    definition = {"name": "sizes", "recipe": str(TINY), "space": {"partition.k": [1, 2]}}
    definition["metrics"] = {"fid": "min", "parameters": "min"}
    (tmp_path / "sizes.yaml").write_text(yaml.safe_dump(definition))
    _, said = sweeping({}, str(tmp_path / "sizes.yaml"))
    (tmp_path / "values.json").write_text(json.dumps(said))
    objects = render(*values(s3, "-f", str(tmp_path / "values.json")))
    (job,) = [found["spec"] for found in objects if found["kind"] == "RayJob"]
    cluster.start(job["rayClusterSpec"])
    entrypoint = mounted(job, objects, tmp_path / "input")
    submit = f"ray job submit --submission-id {{}} -- {entrypoint}"
    done = wait_for(lambda: _finished(cluster.run(submit.format("one"))), 300)
    assert "succeeded" in done.stdout, done.stdout[-2000:]

    best = [sys.executable, "-m", "msd_ray", "sweep", "best", s3.uri("bucket/runs/sizes"), "--json"]
    found = json.loads(subprocess.run(best, capture_output=True, text=True, check=True).stdout)
    assert found["recipe"]["partition"]["k"] in (1, 2)
    assert found["recipe"]["network"]["width"] == 16, "of the recipe that went along"
    assert found["ensemble"].startswith("s3://bucket/runs/sizes/trials/")
    assert set(read_manifest(Store(found["ensemble"])).files)
    journal = read_journal(Store(s3.uri("bucket/runs/sizes")), "journal.jsonl")
    again = cluster.run(submit.format("two"))
    assert "succeeded" in again.stdout, again.stdout[-2000:]
    assert read_journal(Store(s3.uri("bucket/runs/sizes")), "journal.jsonl") == journal, "there was nothing left to do"


def mounted(job: dict[str, Any], objects: list[dict[str, Any]], folder: Path) -> str:
    """Writes what the head pod finds in /etc/msd-ray to a folder; the job's entrypoint with that folder instead."""
    (volume,) = [v for v in job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"] if "configMap" in v]
    name = volume["configMap"]["name"]
    (data,) = [o["data"] for o in objects if o["kind"] == "ConfigMap" and o["metadata"]["name"] == name]
    folder.mkdir()
    for file, content in data.items():
        (folder / file).write_text(content.replace("/etc/msd-ray/", f"{folder}/"))
    return str(job["entrypoint"]).replace("/etc/msd-ray/", f"{folder}/")


def _serve(s3: S3) -> None:
    """The RayService's config on a cluster of its pods, and the caller of `helm test` against the Service's port."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None)
    environment |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3.port}", "AWS_DEFAULT_REGION": "us-east-1"}
    command = [sys.executable, "-m", "msd_ray", "serve", "config", "s3://bucket/runs/digits"]
    config = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    grpc, http = free_port(), free_port()
    words = ["--set", "serve.enabled=true", "--set-json", f"serve.config={json.dumps(config)}"]
    words += ["--set", f"serve.grpcPort={grpc}", "--set", f"serve.httpPort={http}", "--set", "serve.gateway.replicas=1"]
    objects = render(*values(s3, *words))
    (service,) = [found["spec"] for found in objects if found["kind"] == "RayService"]
    token = secrets.token_hex(32)
    pods = Cluster(
        environment | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "PATH": f"{BIN}:{os.environ['PATH']}"}
    )
    try:
        pods.start(service["rayClusterConfig"])
        said = yaml.safe_load(service["serveConfigV2"])
        body = json.dumps(said).encode()
        url = f"http://127.0.0.1:{pods.dashboard}/api/serve/applications/"
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        put = urllib.request.Request(url, body, headers, method="PUT")  # as KubeRay does
        with urllib.request.urlopen(put, timeout=60) as answer:
            assert answer.status == 200
        call = [sys.executable, "-m", "msd_ray.kubernetes.call", f"127.0.0.1:{grpc}", "--seconds", "120"]
        done = subprocess.run(call, capture_output=True, text=True, timeout=150, check=False)
        assert done.stdout == "10 images of 10 classes from 2 students\n", done.stderr
        _, environment, container = pods.pods["gateway-0"]
        assert container["readinessProbe"]["grpc"]["port"] == grpc
        probe = [sys.executable, "-m", "msd_ray.kubernetes.probe", "--port", str(grpc)]
        assert subprocess.run(probe, check=False).returncode == 0
        assert pods.end_pod("gateway-0") < GRACE
        assert subprocess.run(probe, check=False).returncode == 1
    finally:
        pods.close()


def _images(run: Store) -> int:
    """On how many images students have been trained."""
    try:
        return sum(s.nimg for s in read_status(run).students if s.name != "teacher")
    except MsdRayError:  # not yet
        return 0


def _events(run: Store) -> str:
    return json.dumps(read_journal(run, "events.jsonl"))


def _finished(done: subprocess.CompletedProcess[str]) -> Any:
    return None if "No available agent" in done.stdout + done.stderr else done


def _undisturbed(tmp_path: Path) -> dict[str, str]:
    """The weights of the same recipe, trained here without a break."""
    where = tmp_path / "undisturbed"
    environment = os.environ | {"MSD_RAY_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "msd_ray", "train", "digits", *SHORT, "--run-dir", str(where)]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=900)
    return weights(str(where / "ensemble"))
