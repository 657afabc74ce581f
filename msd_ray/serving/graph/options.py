"""What Serve itself is told, once for a whole cluster."""

from typing import Any

from msd_ray.serving.core.config import FrontConfig, ServeConfig, TraceConfig

# Serve looks for proxies that are gone every second instead of every ten, and gives a new one 30 s to start, not 5.
_TIMES = {"RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1", "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30"}
# Proxies have the environment of the controller, which starts them.
_PROXY = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "msd_ray.serving.graph.proxy:middlewares"}
CONTROLLER = {"runtime_env": {"env_vars": {**_TIMES, **_PROXY}}}


def serve_options(config: ServeConfig) -> dict[str, Any]:
    """As `serve.start` takes it, and a config file for `serve deploy`."""
    options = {"http_options": _http(config.front), "controller_options": CONTROLLER}
    # Serve's HTTP port takes certificates of clients but does not ask for them, so it must not be open then.
    location = "Disabled" if config.front.tls_client_ca else "EveryNode"
    return {"proxy_location": location, **options, **_traces(config.traces)}


def _http(front: FrontConfig) -> dict[str, Any]:
    tls = {"ssl_certfile": front.tls_cert, "ssl_keyfile": front.tls_key} if front.tls_cert else {}
    return {"host": front.host, "port": front.http_port, **tls}


def _traces(traces: TraceConfig) -> dict[str, Any]:
    if not traces.exporter:
        return {}
    path = "" if traces.exporter == "file" else traces.exporter
    return {"tracing_config": {"enabled": True, "exporter_import_path": path, "sampling_ratio": traces.share}}
