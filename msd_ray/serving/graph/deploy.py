"""The Serve applications of a service, and how one version follows another."""

from dataclasses import asdict
from typing import Any

from ray import serve
from ray.serve import Application, RunTarget
from ray.serve.config import AutoscalingConfig

from msd_ray.serving.core.catalogue import Traffic, Version
from msd_ray.serving.core.config import ServeConfig, StudentConfig
from msd_ray.serving.graph.front import Front
from msd_ray.serving.graph.ledger import Ledger
from msd_ray.serving.graph.names import FRONT, LEDGER, SHELF, is_part_app, part_app
from msd_ray.serving.graph.student import Dedicated, shelf

QUIET = {"log_level": "WARNING", "enable_access_log": False}  # fronts have an access log of their own


def deploy_students(version: Version, config: ServeConfig, multiplexed: bool) -> None:
    """Starts those students of a version that do not run yet, and waits until they do. Raises RuntimeError where they
    cannot be started."""
    running = {name for name, app in serve.status().applications.items() if app.status == "RUNNING"}
    wanted = {SHELF: shelf_app(config)} if multiplexed else part_apps(version, config)
    _run({name: app for name, app in wanted.items() if name not in running})


def deploy_ledger(traffic: Traffic, config: ServeConfig, multiplexed: bool) -> None:
    """Says to all fronts what the traffic is from now on."""
    said = {"traffic": traffic.to_json(), "config": config.to_json(), "multiplexed": multiplexed}
    _run({LEDGER: ledger_app(said)})


def deploy_front(config: ServeConfig, multiplexed: bool) -> None:
    """Starts the fronts, which need a ledger."""
    serve.run(front_app(config, multiplexed), name=FRONT, route_prefix="/", logging_config=QUIET)


def remove_students(traffic: Traffic) -> None:
    """Ends the students that no version of the traffic has."""
    kept = {part_app(part) for version in traffic.versions for part in version.parts}
    for name in serve.status().applications:
        if is_part_app(name) and name not in kept:
            serve.delete(name)


def part_apps(version: Version, config: ServeConfig) -> dict[str, Application]:
    """An application for each part, by its name."""
    deployment, students = serve.deployment(**_options(config.students))(Dedicated), asdict(config.students)
    return {part_app(of): deployment.bind(version.uri, part, of, students) for part, of in enumerate(version.parts)}


def shelf_app(config: ServeConfig) -> Application:
    deployment = serve.deployment(**_options(config.students))(shelf(config.students.resident))
    return deployment.bind(asdict(config.students))


def ledger_app(said: dict[str, Any]) -> Application:
    options: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": 0},
        "max_ongoing_requests": 1000,
        "graceful_shutdown_timeout_s": 2,
    }
    return serve.deployment(**options)(Ledger).bind(said)


def front_app(config: ServeConfig, multiplexed: bool) -> Application:
    front = config.front
    options: dict[str, Any] = {
        "num_replicas": front.replicas,
        "ray_actor_options": {"num_cpus": front.cpus},
        "max_ongoing_requests": config.limits.concurrent,
        "graceful_shutdown_timeout_s": front.drain_seconds + 5,
        "graceful_shutdown_wait_loop_s": 0.2,
        "health_check_period_s": 1,
    }
    return serve.deployment(**options)(Front).bind(asdict(front), asdict(config.limits), multiplexed)


def _options(config: StudentConfig) -> dict[str, Any]:
    options: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": config.cpus, "num_gpus": config.gpus},
        "max_ongoing_requests": config.queue,
        "max_queued_requests": config.queue,
        "health_check_period_s": 1,
        "max_constructor_retry_count": 2,
    }
    if config.min_replicas == config.max_replicas:
        return {**options, "num_replicas": config.max_replicas}
    scaling = AutoscalingConfig(
        min_replicas=config.min_replicas,
        initial_replicas=config.min_replicas,
        max_replicas=config.max_replicas,
        target_ongoing_requests=8,
        upscale_delay_s=2,
        downscale_delay_s=config.idle_seconds,
        downscale_to_zero_delay_s=config.idle_seconds,
    )
    return {**options, "autoscaling_config": scaling}


def _run(apps: dict[str, Application]) -> None:
    if apps:
        serve.run_many([RunTarget(app, name, route_prefix=None, logging_config=QUIET) for name, app in apps.items()])


def stop_front() -> None:
    """Lets the fronts finish what they are at, then ends them."""
    if FRONT in serve.status().applications:
        serve.delete(FRONT)
