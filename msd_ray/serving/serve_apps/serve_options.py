"""The options of Serve itself, set once for a whole cluster."""

import resource
from dataclasses import replace
from typing import Any

import ray

from msd_ray.serving.service.config import GatewayConfig, Placement, ServeConfig, TraceConfig
from msd_ray.serving.service.versions import Version

BYTES_PER_PARAMETER = 8  # float32 weights, and as much again for what a network computes with
SHARE = 0.8  # of the cluster's memory that students may take


def placement(version: Version, config: ServeConfig) -> Placement:
    """Where students are: as the configuration says or, for `auto`, multiplexed if replicas for all parts at once
    would be more processes than the cluster has CPUs, or need more memory or GPUs, and else dedicated. The estimate for
    a replica is the memory of this process, which has imported the same modules, and its students' weights."""
    students = config.students
    if students.placement != "auto":
        return students.placement
    have, parts = ray.cluster_resources(), len(version.parts)  # type: ignore[no-untyped-call]
    fits = _memory(version, parts) <= SHARE * have.get("memory", 0)
    processes = parts * students.max_replicas + config.gateway.replicas
    room = fits and processes <= have.get("CPU", 0) and parts * students.gpus <= have.get("GPU", 0)
    return "dedicated" if room else "multiplexed"


def with_room(version: Version, config: ServeConfig) -> ServeConfig:
    """For multiplexed students by `auto`: each replica keeps the parts of all versions, where memory allows that."""
    students, parts = config.students, config.keep * len(version.parts)
    have = ray.cluster_resources().get("memory", 0)  # type: ignore[no-untyped-call]
    needed = students.max_replicas * config.keep * _memory(version, 1)
    if students.placement != "auto" or students.resident >= parts or needed > SHARE * have:
        return config
    return replace(config, students=replace(students, resident=parts))


def _memory(version: Version, processes: int) -> int:
    """Bytes of so many processes that hold a version's students between them."""
    process = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return processes * process + BYTES_PER_PARAMETER * sum(student.parameters for student in version.students)


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
