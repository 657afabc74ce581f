"""The options of Serve itself, set once for a whole cluster."""

import resource
from typing import Any

import ray

from msd_ray.serving.service.config import GatewayConfig, ServeConfig, TraceConfig
from msd_ray.serving.service.versions import Version

BYTES_PER_PARAMETER = 8  # float32 weights, and as much again for what a network computes with
SHARE = 0.8  # of the cluster's memory that students may take


def multiplexed(version: Version, config: ServeConfig) -> bool:
    """Whether students are multiplexed: as the configuration says or, for `auto`, if replicas for all parts at once do
    not fit on the connected cluster. The estimate for a replica is the memory of this process, which has imported the
    same modules, and its students' weights."""
    students = config.students
    if students.placement != "auto":
        return students.placement == "multiplexed"
    have, parts = ray.cluster_resources(), len(version.parts)  # type: ignore[no-untyped-call]
    process = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    weights = BYTES_PER_PARAMETER * sum(student.parameters for student in version.students)
    fits = parts * process + weights <= SHARE * have.get("memory", 0)
    cpus = parts * students.cpus + config.gateway.replicas * config.gateway.cpus <= have.get("CPU", 0)
    return not (fits and cpus and parts * students.gpus <= have.get("GPU", 0))


# Serve looks for proxies that are gone every second instead of every ten, and gives a new one 30 s to start, not 5.
_TIMES = {"RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1", "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30"}
# Proxies have the environment of the controller, which starts them.
_PROXY = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "msd_ray.serving.serve_apps.proxy:middlewares"}
CONTROLLER = {"runtime_env": {"env_vars": {**_TIMES, **_PROXY}}}


def serve_options(config: ServeConfig) -> dict[str, Any]:
    """The HTTP options for `serve.start`, and for a config file for `serve deploy`."""
    options = {"http_options": _http(config.gateway), "controller_options": CONTROLLER}
    # Serve's HTTP port takes certificates of clients but does not ask for them, so it must not be open then.
    location = "Disabled" if config.gateway.tls_client_ca else "EveryNode"
    return {"proxy_location": location, **options, **_traces(config.traces)}


def _http(gateway: GatewayConfig) -> dict[str, Any]:
    tls = {"ssl_certfile": gateway.tls_cert, "ssl_keyfile": gateway.tls_key} if gateway.tls_cert else {}
    return {"host": gateway.host, "port": gateway.http_port, **tls}


def _traces(traces: TraceConfig) -> dict[str, Any]:
    if not traces.exporter:
        return {}
    path = "" if traces.exporter == "file" else traces.exporter
    return {"tracing_config": {"enabled": True, "exporter_import_path": path, "sampling_ratio": traces.share}}
