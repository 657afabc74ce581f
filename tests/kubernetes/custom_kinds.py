"""Custom resources whose definitions nobody ships with Python: their keys, from the public API references of the
Gateway API v1, cert-manager v1, the Prometheus operator v1 and KubeRay 1.7. What the chart has no use for is left
out."""

from typing import Any

from .rendering import crd_schema

TEXT = {"type": "string", "minLength": 1}
NUMBER = {"type": "integer", "minimum": 1, "maximum": 65535}
LABELS = {"type": "object", "additionalProperties": {"type": "string"}}


def one_of(*words: str) -> dict[str, Any]:
    return {"enum": [*words]}


def listed(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


def keys(*required: str, **known: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object that has these keys and no others."""
    return {"type": "object", "properties": known, "required": [*required], "additionalProperties": False}


def route(match: dict[str, Any]) -> dict[str, Any]:
    """The spec of a GRPCRoute or an HTTPRoute."""
    parent = keys("name", name=TEXT, namespace=TEXT, group=TEXT, kind=TEXT, sectionName=TEXT, port=NUMBER)
    backend = keys("name", "port", name=TEXT, namespace=TEXT, group=TEXT, kind=TEXT, port=NUMBER, weight=NUMBER)
    rule = keys("backendRefs", matches=listed(match), backendRefs=listed(backend))
    return keys("parentRefs", "rules", parentRefs=listed(parent), hostnames=listed(TEXT), rules=listed(rule))


EXPRESSION = keys("key", "operator", key=TEXT, operator=one_of("In", "Exists"), values=listed(TEXT))
ENDPOINT = keys("port", port=TEXT, path=TEXT, scheme=one_of("http", "https"), interval=TEXT, scrapeTimeout=TEXT)
SPECS = {
    "GRPCRoute": route(
        keys("method", method=keys(type=one_of("Exact", "RegularExpression"), service=TEXT, method=TEXT)),
    ),
    "HTTPRoute": route(
        keys("path", path=keys(type=one_of("Exact", "PathPrefix", "RegularExpression"), value=TEXT)),
    ),
    "Certificate": keys(
        "secretName",
        "issuerRef",
        secretName=TEXT,
        issuerRef=keys("name", name=TEXT, kind=one_of("Issuer", "ClusterIssuer"), group=TEXT),
        dnsNames=listed(TEXT),
        duration=TEXT,
        renewBefore=TEXT,
    ),
    "PodMonitor": keys(
        "selector",
        "podMetricsEndpoints",
        selector=keys(matchLabels=LABELS, matchExpressions=listed(EXPRESSION)),
        podMetricsEndpoints=listed(ENDPOINT),
        namespaceSelector=keys(any={"type": "boolean"}, matchNames=listed(TEXT)),
        podTargetLabels=listed(TEXT),
    ),
}
VERSIONS = {
    "GRPCRoute": "gateway.networking.k8s.io/v1",
    "HTTPRoute": "gateway.networking.k8s.io/v1",
    "Certificate": "cert-manager.io/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "RayCronJob": "ray.io/v1",
}


def custom_schema(kind: str) -> dict[str, Any]:
    """The schema of an object of such a kind. A RayCronJob's template is held against the definition of RayJobs, and
    skips the test where that is missing."""
    metadata = keys("name", name=TEXT, namespace=TEXT, labels=LABELS, annotations=LABELS)
    return keys(
        "apiVersion",
        "kind",
        "metadata",
        "spec",
        apiVersion=one_of(VERSIONS[kind]),
        kind=one_of(kind),
        metadata=metadata,
        spec=SPECS[kind] if kind in SPECS else _cron(),
    )


def _cron() -> dict[str, Any]:
    fields = {"type": "string", "pattern": r"^(\S+ ){4}\S+$"}
    return keys("schedule", "jobTemplate", schedule=fields, jobTemplate=crd_schema("RayJob")["properties"]["spec"])
