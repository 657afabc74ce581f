"""An API server on loopback that knows a few kinds, validates what is applied with their real schemas, and fails when
told to. What KubeRay would do, a test does by hand."""

import copy
import datetime as dt
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import kubernetes_validate
import yaml

from msd_ray.kubernetes.api import _PATHS

from .custom_kinds import VERSIONS, custom_schema
from .rendering import CRDS, crd_schema

PATH = re.compile(
    r"^/(?P<group>api/v1|apis/[^/]+/v1)/namespaces/(?P<ns>[^/]+)/(?P<plural>[^/]+)"
    r"(/(?P<name>[^/]+))?(?P<log>/log)?$"
)
KINDS = {(group, plural): kind for kind, (group, plural) in _PATHS.items()}
RAY = ("RayCluster", "RayJob", "RayService")


@dataclass
class Failure:
    """How a request fails. times: how often. log: whether it is one for a log."""

    method: str
    plural: str
    status: int
    message: str
    times: int = 1
    details: dict[str, Any] = field(default_factory=dict)
    log: bool = False

    def meets(self, method: str, plural: str, log: bool) -> bool:
        return bool(self.times) and (self.method, self.plural, self.log) == (method, plural, log)


@dataclass
class Double:
    """objects: by kind and name. requests: what was asked. without: API groups that are not installed.

    logs: of pods, lines with their time stamps. starting: pods whose containers have not started. sent: bytes of logs.
    """

    url: str = ""
    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    without: set[str] = field(default_factory=set)
    logs: dict[str, list[str]] = field(default_factory=dict)
    starting: set[str] = field(default_factory=set)
    sent: int = 0
    versions: int = 0
    _lines: int = 0

    def say(self, pod: str, *lines: str) -> None:
        """Adds to a pod's log, four lines a second."""
        log = self.logs.setdefault(pod, [])
        for line in lines:
            self._lines += 1
            when = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=self._lines / 4)
            log.append(f"{when:%Y-%m-%dT%H:%M:%S.%f}789Z {line}")

    def answer(self, method: str, url: str, body: bytes, headers: Any) -> tuple[int, Any]:
        split = urlsplit(url)
        self.requests.append((method, split.path))
        group = split.path.split("/")[2] if split.path.startswith("/apis/") else ""
        if group in self.without:
            return _status(404, "the server could not find the requested resource")
        if re.fullmatch(r"/apis/[^/]+", split.path):
            return 200, {"kind": "APIGroup"}
        found = PATH.match(split.path)
        assert found, split.path
        kind, name = KINDS[found["group"], found["plural"]], found["name"] or ""
        for failure in self.failures:
            if failure.meets(method, found["plural"], bool(found["log"])):
                failure.times -= 1
                return _status(failure.status, failure.message, failure.details)
        if found["log"]:
            return self._log(name, parse_qs(split.query))
        if method == "GET" and not name:
            return 200, {"items": self._chosen(kind, parse_qs(split.query))}
        return self._one(method, kind, name, parse_qs(split.query), body, headers)

    def _log(self, pod: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        """As a kubelet answers, who compares time stamps with whole seconds."""
        assert query["timestamps"] == ["true"]
        if pod in self.starting:
            what = f'container "{query["container"][0]}" in pod "{pod}" is waiting to start: ContainerCreating'
            return _status(400, what)
        lines = self.logs.get(pod, [])
        if since := query.get("sinceTime"):
            lines = [line for line in lines if line >= since[0].removesuffix("Z")]
        text = "".join(f"{line}\n" for line in lines[-int(query.get("tailLines", ["1000000"])[0]) :])
        self.sent += len(text)
        return 200, text

    def _one(self, method: str, kind: str, name: str, query: Any, body: bytes, headers: Any) -> tuple[int, Any]:
        known = self.objects.get((kind, name))
        if method == "PATCH":
            assert headers["Content-Type"] == "application/apply-patch+yaml"
            assert query["fieldManager"] == ["msd-ray"]
            return self._apply(kind, name, known, yaml.safe_load(body), query["force"] == ["true"])
        if known is None:
            return _status(404, f'{kind} "{name}" not found', {"name": name})
        if method == "DELETE":
            del self.objects[kind, name]
            return 200, {"status": "Success"}
        return 200, known

    def _apply(self, kind: str, name: str, known: Any, wanted: Any, force: bool) -> tuple[int, Any]:
        if problem := invalid(wanted):
            return _status(422, f'{kind}.ray.io "{name}" is invalid: {problem}')
        if known and known["metadata"].get("labels", {}).get("owner") == "somebody" and not force:
            return _status(409, 'Apply failed with 1 conflict: conflict with "kubectl": .spec.replicas')
        made = copy.deepcopy(wanted)
        for key in ("resourceVersion", "generation"):
            made["metadata"][key] = known["metadata"][key] if known else 0
        if known and {**known, "status": None} == {**made, "status": None}:
            return 200, known
        self.versions += 1
        made["metadata"]["resourceVersion"] = str(self.versions)
        made["metadata"]["generation"] = made["metadata"]["generation"] + 1
        if known and "status" in known:
            made["status"] = known["status"]
        self.objects[kind, name] = made
        return 200 if known else 201, made

    def _chosen(self, kind: str, query: dict[str, list[str]]) -> list[Any]:
        found = [o for (k, _), o in self.objects.items() if k == kind]
        for selector in query.get("labelSelector", []):
            key, _, value = selector.partition("=")
            found = [o for o in found if o["metadata"].get("labels", {}).get(key) == value]
        for selector in query.get("fieldSelector", []):
            key, _, value = selector.partition("=")
            found = [o for o in found if o[key] == value]
        return found


def submitter(name: str, job: str = "digits-train") -> dict[str, Any]:
    """A job's pod, as Kubernetes labels it."""
    return {"metadata": {"name": name, "labels": {"job-name": job}, "creationTimestamp": "2026-01-01T00:00:00Z"}}


def invalid(wanted: dict[str, Any]) -> str:
    """What its schema says of an object; empty where it is fine, or KubeRay's definitions are not at hand."""
    plain = {key: value for key, value in wanted.items() if key != "status"}
    try:
        if wanted["kind"] in (*RAY, "RayCronJob") and not CRDS.is_dir():
            return ""
        if wanted["kind"] in (*RAY, *VERSIONS):
            _validator(wanted["kind"]).validate(plain)
        elif _PATHS[wanted["kind"]][0].split("/")[-2] in (
            "api",
            "networking.k8s.io",
            "policy",
            "rbac.authorization.k8s.io",
        ):
            kubernetes_validate.validate(plain, "1.31", strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        return str(error.message)
    return ""


@cache
def _validator(kind: str) -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(custom_schema(kind) if kind in VERSIONS else crd_schema(kind))


def _status(code: int, message: str, details: dict[str, Any] | None = None) -> tuple[int, Any]:
    return code, {"kind": "Status", "status": "Failure", "message": message, "details": details or {}, "code": code}


@contextmanager
def api_server() -> Iterator[Double]:
    double = Double()

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            code, content = double.answer(self.command, self.path, body, self.headers)
            data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PATCH = do_DELETE = respond  # noqa: N815  # the names that http.server looks for

        def log_message(self, *of_a_request: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        double.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield double
        server.shutdown()
