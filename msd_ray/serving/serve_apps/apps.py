"""The Serve applications of a service. Each is built from plain data, so that a config file for `serve deploy` can
describe it, too: `import_path: msd_ray.serving.serve_apps.apps:part`, `args: {...}`.
"""

from dataclasses import asdict, replace
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from msd_ray import own_code
from msd_ray.serving.serve_apps.app_names import ANY_PART, GATEWAY, REGISTRY, part_app
from msd_ray.serving.serve_apps.gateway_app import Gateway
from msd_ray.serving.serve_apps.replicas import DedicatedReplica, multiplexed_replica
from msd_ray.serving.serve_apps.version_registry import VersionRegistry
from msd_ray.serving.service.config import Placement, ServeConfig, StudentConfig, parse_config
from msd_ray.serving.service.versions import Traffic, Version

Args = dict[str, Any]

# Handles that speak gRPC to replicas instead of calling actors: twice the requests per second. An answer may be large.
# Replicas are never asked through a proxy that the environment names: an empty grpc_proxy stands before the others.
ENVIRONMENT = {
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str((1 << 31) - 1),
    "grpc_proxy": "",
}
# Serve probes each replica every second, and replaces one that was silent for so long three times.
HEALTH = {"health_check_period_s": 1, "health_check_timeout_s": 3}
BY_DELAY = "msd_ray.serving.serve_apps.scaling:by_queue_delay"
# Seconds between two looks at a replica, and over which Serve averages them.
LOOKS = {"metrics_interval_s": 1.0, "look_back_period_s": 5.0}


def student_args(version: Version, config: ServeConfig, placement: Placement) -> dict[str, tuple[str, Args]]:
    """The applications that a version's students need: for each name the function that builds it, and its arguments."""
    common = {"students": asdict(config.students), **_environment()}
    if placement == "gateway":
        return {}
    if placement == "multiplexed":
        return {ANY_PART: ("any_part", common)}
    each = {"uri": version.uri, **common}
    return {part_app(of): ("part", {**each, "part": i, "version": of}) for i, of in enumerate(version.parts)}


def service_args(traffic: Traffic, config: ServeConfig, placement: Placement) -> dict[str, tuple[str, Args]]:
    """The same of the registry of versions and the gateways."""
    said = {"config": config.to_json(), "placement": placement}
    registry, gateway = {**said, "traffic": traffic.to_json()}, {**said, **_environment()}
    return {REGISTRY: ("versions", registry), GATEWAY: ("gateway", gateway)}


def _environment() -> Args:
    """Of the processes that import a user's own code, where there is any."""
    allowed = own_code.environment()
    return {"environment": allowed} if allowed else {}


def part(args: Args) -> Application:
    """The students of one part of the conditions. args: uri, part, version, students (a StudentConfig), environment (of
    the replicas' processes)."""
    options = _student_options(StudentConfig(**args["students"]), args)
    return serve.deployment(**options)(DedicatedReplica).bind(
        args["uri"], args["part"], args["version"], args["students"]
    )


def any_part(args: Args) -> Application:
    """Replicas that hold several parts. args: students (a StudentConfig), environment (of their processes)."""
    config = StudentConfig(**args["students"])
    options = _student_options(config, args)
    return serve.deployment(**options)(multiplexed_replica(config.resident)).bind(args["students"])


def versions(args: Args) -> Application:
    """The registry of versions. args: traffic, config, placement."""
    options: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": 0},
        "max_ongoing_requests": 1000,
        "graceful_shutdown_timeout_s": 2,
        "graceful_shutdown_wait_loop_s": 0.2,
        **HEALTH,
    }
    return serve.deployment(**options)(VersionRegistry).bind(args)


def gateway(args: Args) -> Application:
    """The gateways. args: config, placement, environment (of their processes)."""
    config = parse_config(args["config"])
    own = config.students if args["placement"] == "gateway" else replace(config.students, cpus=0, gpus=0)
    cpus = config.gateway.cpus + own.cpus
    actor: dict[str, Any] = {"num_cpus": cpus, "num_gpus": own.gpus, "runtime_env": _runtime_env(args)}
    if config.gateway.resource:
        actor["resources"] = {config.gateway.resource: 1}
    options: dict[str, Any] = {
        "num_replicas": config.gateway.replicas,
        "ray_actor_options": actor,
        "max_ongoing_requests": 2 * config.limits.concurrent + config.limits.waiting,  # of HTTP; the gateway refuses
        "max_queued_requests": config.limits.concurrent,
        "graceful_shutdown_timeout_s": config.gateway.drain_seconds + 5,
        "graceful_shutdown_wait_loop_s": 0.2,
        **HEALTH,
        "max_constructor_retry_count": 3,
    }
    said = asdict(config.gateway), asdict(config.limits), asdict(config.students), args["placement"]
    return serve.deployment(**options)(Gateway).bind(*said)


def _runtime_env(args: Args) -> dict[str, Any]:
    return {"env_vars": {**ENVIRONMENT, **args.get("environment", {})}}


def _student_options(config: StudentConfig, args: Args) -> dict[str, Any]:
    actor = {"num_cpus": config.cpus, "num_gpus": config.gpus, "runtime_env": _runtime_env(args)}
    options: dict[str, Any] = {
        "ray_actor_options": actor,
        "max_ongoing_requests": config.queue,
        "max_queued_requests": config.queue,
        **HEALTH,
        "max_constructor_retry_count": 2,
    }
    if config.min_replicas == config.max_replicas:
        return {**options, "num_replicas": config.max_replicas}
    return {**options, "autoscaling_config": _scaling(config)}


def _scaling(config: StudentConfig) -> AutoscalingConfig:
    """By calls under way, or by how long images wait."""
    more: dict[str, Any] = {}
    if config.queue_delay_ms:
        policy = AutoscalingPolicy(policy_function=BY_DELAY)  # type: ignore[no-untyped-call]
        more = {"policy": policy, **LOOKS}
    return AutoscalingConfig(
        min_replicas=config.min_replicas,
        initial_replicas=max(1, config.min_replicas),  # so that damage is noticed before there are requests
        max_replicas=config.max_replicas,
        target_ongoing_requests=config.ongoing,
        upscale_delay_s=2,
        downscale_delay_s=config.idle_seconds,
        downscale_to_zero_delay_s=config.idle_seconds,
        **more,
    )
