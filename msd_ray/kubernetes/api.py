"""A client of the Kubernetes API server: server-side apply, reading, deleting, logs. Each refusal is one line."""

import json
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from msd_ray.errors import MsdRayError, UserError

Object = dict[str, Any]
Note = Callable[[str], None]
OWNER = "msd-ray"
"""The field manager under which everything is applied."""
_APPLY = "application/apply-patch+yaml"
_AWAY = (429, 500, 502, 503, 504)
_PATHS = {
    "ConfigMap": ("api/v1", "configmaps"),
    "Event": ("api/v1", "events"),
    "PersistentVolumeClaim": ("api/v1", "persistentvolumeclaims"),
    "Pod": ("api/v1", "pods"),
    "Service": ("api/v1", "services"),
    "ServiceAccount": ("api/v1", "serviceaccounts"),
    "NetworkPolicy": ("apis/networking.k8s.io/v1", "networkpolicies"),
    "Ingress": ("apis/networking.k8s.io/v1", "ingresses"),
    "PodDisruptionBudget": ("apis/policy/v1", "poddisruptionbudgets"),
    "Role": ("apis/rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("apis/rbac.authorization.k8s.io/v1", "rolebindings"),
    "GRPCRoute": ("apis/gateway.networking.k8s.io/v1", "grpcroutes"),
    "HTTPRoute": ("apis/gateway.networking.k8s.io/v1", "httproutes"),
    "Certificate": ("apis/cert-manager.io/v1", "certificates"),
    "PodMonitor": ("apis/monitoring.coreos.com/v1", "podmonitors"),
    "RayCluster": ("apis/ray.io/v1", "rayclusters"),
    "RayCronJob": ("apis/ray.io/v1", "raycronjobs"),
    "RayJob": ("apis/ray.io/v1", "rayjobs"),
    "RayService": ("apis/ray.io/v1", "rayservices"),
}
_DENIED = r'cannot (\S+) resource "([^"]+)"(?: in API group "([^"]*)")?'
_BUILT_IN = ("networking.k8s.io", "policy", "rbac.authorization.k8s.io")
_INSTALL = {
    "ray.io": "install the KubeRay operator, 1.7 or newer",
    "gateway.networking.k8s.io": "install a Gateway API implementation, or leave serve.route.enabled off",
    "cert-manager.io": "install cert-manager, or give serve.tls.secret",
    "monitoring.coreos.com": "install the Prometheus operator, or leave monitoring.podMonitor off",
}


class Api:
    """One namespace of one cluster. If the API server does not answer, every call is retried for `seconds`.

    Every method raises UserError if the server refuses, MsdRayError if it does not answer.
    """

    def __init__(self, client: Any, namespace: str, note: Note, seconds: float = 60.0) -> None:
        """client: a kubernetes.client.ApiClient."""
        self.namespace, self._client, self._note, self._seconds = namespace, client, note, seconds

    def apply(self, wanted: Object, force: bool = False) -> str:
        """Applies an object; returns whether it was created, changed or left as it was. force: take over fields that
        another field manager set."""
        kind, name = wanted["kind"], wanted["metadata"]["name"]
        before = self.get(kind, name)
        query = [("fieldManager", OWNER), ("force", json.dumps(force))]
        made = self._call("PATCH", self._path(kind, name), query, wanted, kind, name)
        if before is None:
            return "created"
        same = before["metadata"].get("resourceVersion") == made["metadata"].get("resourceVersion")
        return "unchanged" if same else "changed"

    def get(self, kind: str, name: str) -> Object | None:
        """None where there is no such object."""
        found: Object | None = self._call("GET", self._path(kind, name), [], None, kind, name, missing=True)
        return found

    def find(self, kind: str, selector: str = "", fields: str = "") -> Sequence[Object]:
        """The objects that the selectors choose."""
        query = [(key, value) for key, value in (("labelSelector", selector), ("fieldSelector", fields)) if value]
        found: Sequence[Object] = self._call("GET", self._path(kind), query, None, kind, "")["items"]
        return found

    def knows(self, kind: str) -> bool:
        """Whether the cluster has objects of this kind at all."""
        if (group := _group(kind)) in ("", *_BUILT_IN):
            return True
        return self._call("GET", f"/apis/{group}", [], None, kind, "", missing=True) is not None

    def delete(self, kind: str, name: str) -> None:
        """Deletes an object, if it exists."""
        query = [("propagationPolicy", "Foreground")]
        self._call("DELETE", self._path(kind, name), query, None, kind, name, missing=True)

    def log(self, pod: str, container: str, since: str, first: int) -> list[str]:
        """The lines of a container's log, each with its time stamp: those since a time in RFC 3339, or the newest
        `first` if that is empty. None if the container has not started, or its node does not answer."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        query = [("container", container), ("timestamps", "true")]
        query.append(("sinceTime", since) if since else ("tailLines", str(first)))
        try:
            text = self._once("GET", f"{self._path('Pod', pod)}/log", query, None, plain=True)
        except ApiException as error:
            if error.status in (401, 403):
                raise refused(error.status, _message(error), "GET", "Pod", pod, self.namespace) from None
            return []
        except HTTPError:
            return []
        return [line for line in str(text).split("\n") if line]  # a progress bar's \r ends no line

    def _path(self, kind: str, name: str = "") -> str:
        group, plural = _PATHS[kind]
        path = f"/{group}/namespaces/{self.namespace}/{plural}"
        return f"{path}/{name}" if name else path

    def _call(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]],
        body: Object | None,
        kind: str,
        name: str,
        missing: bool = False,
    ) -> Any:
        """The answer. missing: None instead of an error if the object does not exist."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        end, pause, told = time.monotonic() + self._seconds, 0.5, False
        while True:
            try:
                return self._once(method, path, query, body)
            except ApiException as error:
                if error.status == 404 and missing and (not name or _names_an_object(error)):
                    return None
                if error.status not in _AWAY or time.monotonic() > end:
                    raise refused(error.status, _message(error), method, kind, name, self.namespace) from None
            except HTTPError as error:
                if time.monotonic() > end:
                    host = self._client.configuration.host
                    raise MsdRayError(
                        f"the API server at {host} did not answer for {self._seconds:g} s: {_short(error)}"
                    ) from None
            if not told:
                self._note("the API server does not answer; trying again")
                told = True
            time.sleep(pause)
            pause = min(2 * pause, 5.0)

    def _once(
        self, method: str, path: str, query: list[tuple[str, str]], body: Object | None, plain: bool = False
    ) -> Any:
        headers = {"Accept": "*/*" if plain else "application/json"}
        if body is not None:
            headers["Content-Type"] = _APPLY
        answer = self._client.call_api(
            path,
            method,
            query_params=query,
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
            _request_timeout=30,
        )
        text = answer.data.decode(errors="replace")
        return text if plain else json.loads(text)


def connect(context: str | None, namespace: str | None, note: Note) -> Api:
    """The cluster that kubectl would use, or the one that this pod is in. Raises UserError if there is none."""
    from kubernetes import client, config

    try:
        contexts, active = config.list_kube_config_contexts()
        chosen = next((c for c in contexts if c["name"] == context), None) if context else active
        if chosen is None:
            known = ", ".join(c["name"] for c in contexts)
            raise UserError(f"no context {context} in the kubeconfig; there is {known}")
        api = config.new_client_from_config(context=chosen["name"])
        return Api(api, namespace or chosen["context"].get("namespace", "default"), note)
    except config.ConfigException:
        pass
    try:
        config.load_incluster_config()
    except config.ConfigException:
        raise UserError("no Kubernetes cluster is known: set KUBECONFIG, or give --address of a Ray cluster") from None
    return Api(client.ApiClient(), namespace or "default", note)


def refused(status: int, said: str, method: str, kind: str, name: str, namespace: str) -> UserError:
    """An answer of the API server as an error that says what to do."""
    api_group, plural = _group(kind), _PATHS[kind][1]
    resource = f"{plural}.{api_group}" if api_group else plural
    verb = {"GET": "get" if name else "list", "PATCH": "patch", "DELETE": "delete"}[method]
    if status == 401:
        return UserError("the API server does not know you: log in again, or choose another --context")
    if status == 403 and "exceeded quota" in said:
        return UserError(f"{kind} {name}: {said}; ask for a larger quota in {namespace}, or lower the pods' resources")
    if status == 403 and "admission webhook" not in said:
        if denied := re.search(_DENIED, said):  # pods/log, or create where patch is allowed: the server knows best
            verb, resource = denied[1], f"{denied[2]}.{denied[3] or api_group}".rstrip(".")
        also = " (and create)" if verb == "patch" else ""
        return UserError(
            f"you may not {verb}{also} {resource} in namespace {namespace}: ask for a Role with that, "
            f"docs/kubernetes.md lists all that is needed"
        )
    if status == 404:
        what = _INSTALL.get(api_group)
        return UserError(
            f"this cluster has no {resource}: {what}" if what else f"no namespace {namespace}, or no {kind} {name}"
        )
    if status == 409:
        return UserError(f"{kind} {name}: {said}; --force takes these fields over")
    return UserError(f"the API server refuses {kind} {name}: {said}")


def _group(kind: str) -> str:
    """The API group of a kind, empty for the core."""
    path = _PATHS[kind][0]
    return path.split("/")[1] if path.startswith("apis/") else ""


def _names_an_object(error: Any) -> bool:
    """Whether an object is missing, rather than its kind."""
    try:
        return bool((json.loads(error.body).get("details") or {}).get("name"))
    except (ValueError, TypeError, AttributeError):
        return False


def _message(error: Any) -> str:
    try:
        said = str(json.loads(error.body)["message"])
    except (ValueError, TypeError, KeyError):
        said = str(error.reason)
    return " ".join(said.split())


def _short(error: Exception) -> str:
    return " ".join(str(getattr(error, "reason", None) or error).split())[:200]


def delete_release(api: Api, release: str, note: Note) -> int:
    """Deletes all objects of a release except its volume, which keeps the runs; returns how many there were."""
    deleted = 0
    for kind in _PATHS:
        if kind in ("Event", "Pod", "PersistentVolumeClaim") or not api.knows(kind):
            continue
        for found in api.find(kind, selector=f"app.kubernetes.io/instance={release}"):
            api.delete(kind, found["metadata"]["name"])
            note(f"{kind} {found['metadata']['name']}: deleted")
            deleted += 1
    return deleted
