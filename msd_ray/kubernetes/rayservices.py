"""An ensemble as a RayService."""

import base64
import gzip
import json
import time
from collections.abc import Callable

from msd_ray.errors import MsdRayError, UserError
from msd_ray.kubernetes.api import Api, Note, Object
from msd_ray.kubernetes.rayjobs import LOOK, content, new_events

_STATUS_KEYS = ("resourceVersion", "uid", "creationTimestamp", "generation", "managedFields")


def deploy(api: Api, objects: list[Object], force: bool, note: Note) -> str:
    """Applies a release with a RayService, keeps the previous spec for `roll_back`, and returns its name."""
    (service,) = [found for found in objects if found["kind"] == "RayService"]
    name = str(service["metadata"]["name"])
    known = api.get("RayService", name)
    if known and content(known) != content(service):
        api.apply(_memory(api.namespace, name, known), force=True)
    for found in objects:
        note(f"{found['kind']} {found['metadata']['name']}: {api.apply(found, force)}")
    return name


def roll_back(api: Api, name: str, note: Note) -> None:
    """Gives a service the spec that it had before the last `deploy`. Raises UserError if none is known."""
    kept, known = api.get("ConfigMap", _kept(name)), api.get("RayService", name)
    if kept is None or known is None:
        raise UserError(f"there is nothing to go back to: {name} was deployed once only, or not at all")
    before = json.loads(gzip.decompress(base64.b64decode(kept["data"]["service"])))
    api.apply(_memory(api.namespace, name, known), force=True)  # so that another roll-back goes forward again
    note(f"RayService {name}: {api.apply(before, force=True)}")


def scale(api: Api, name: str, group: str, replicas: int, note: Note) -> None:
    """Sets the number of pods of a worker group. Raises UserError if there is no such group."""
    known = api.get("RayService", name)
    if known is None:
        raise UserError(f"there is no service {name} in namespace {api.namespace}")
    wanted = _applied(known)
    groups = wanted["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    names = [found["groupName"] for found in groups]
    if group not in names:
        raise UserError(f"{name} has no workers {group!r}; there are {', '.join(names)}")
    chosen = groups[names.index(group)]
    chosen |= {"replicas": replicas, "maxReplicas": max(replicas, chosen.get("maxReplicas", replicas))}
    chosen["minReplicas"] = min(replicas, chosen.get("minReplicas", 0))
    note(f"RayService {name}: {api.apply(wanted, force=True)}")


def await_healthy(api: Api, name: str, seconds: float, note: Note, sleep: Callable[[float], None] = time.sleep) -> None:
    """Waits until every application runs. After so many seconds it raises MsdRayError, which names those that do
    not."""
    end, told, events = time.monotonic() + seconds, "", set[str]()
    while True:
        service = api.get("RayService", name)
        if service is None:
            raise UserError(f"there is no service {name} in namespace {api.namespace}")
        waiting = not_running(service)
        for line in new_events(api, name, events):
            note(line)
        if not waiting and _is_ready(service):
            note(f"{name} is healthy")
            return
        now = "; ".join(waiting) or "the cluster starts"
        if now != told:
            told = now
            note(f"{name}: {now}")
        if time.monotonic() > end:
            raise MsdRayError(f"{name} is not healthy after {seconds:g} s: {now}")
        sleep(LOOK)


def not_running(service: Object) -> list[str]:
    """The messages of applications that do not run; of the new cluster, if one is starting."""
    status = service.get("status", {})
    cluster = status.get("pendingServiceStatus") or status.get("activeServiceStatus") or {}
    apps = cluster.get("applicationStatuses") or {}
    return [
        f"{name} {app.get('status', '')} {' '.join(str(app.get('message', '')).split())[-200:]}".strip()
        for name, app in sorted(apps.items())
        if app.get("status") != "RUNNING"
    ]


def _is_ready(service: Object) -> bool:
    status = service.get("status", {})
    conditions = {c["type"]: c["status"] for c in status.get("conditions", [])}
    current = status.get("observedGeneration", 0) >= service["metadata"].get("generation", 0)
    return current and conditions.get("Ready") == "True" and conditions.get("UpgradeInProgress") != "True"


def _memory(namespace: str, name: str, service: Object) -> Object:
    """A ConfigMap that holds a service; compressed, since a config of many students is long."""
    packed = base64.b64encode(gzip.compress(json.dumps(_applied(service)).encode(), mtime=0)).decode()
    metadata = {"name": _kept(name), "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"service": packed}}


def _applied(service: Object) -> Object:
    """The object without the fields that the server adds, so that it can be applied again."""
    metadata = {key: value for key, value in service["metadata"].items() if key not in _STATUS_KEYS}
    return {**{key: value for key, value in service.items() if key != "status"}, "metadata": metadata}


def _kept(name: str) -> str:
    return f"{name}-before"
