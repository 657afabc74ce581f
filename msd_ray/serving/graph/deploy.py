"""Starting and ending the applications of a service on the cluster that we are connected to."""

from ray import serve
from ray.serve import RunTarget

from msd_ray.serving.core.catalogue import Traffic, Version
from msd_ray.serving.core.config import ServeConfig
from msd_ray.serving.graph import apps
from msd_ray.serving.graph.names import FRONT, LEDGER, is_part_app, part_app

QUIET = {"log_level": "WARNING", "enable_access_log": False}  # fronts have an access log of their own
Said = dict[str, tuple[str, apps.Args]]


def deploy_students(version: Version, config: ServeConfig, multiplexed: bool) -> None:
    """Starts those students of a version that do not run yet, and waits until they do. Raises RuntimeError where they
    cannot be started."""
    running = {name for name, app in serve.status().applications.items() if app.status == "RUNNING"}
    wanted = apps.student_args(version, config, multiplexed)
    _run({name: said for name, said in wanted.items() if name not in running})


def deploy_ledger(traffic: Traffic, config: ServeConfig, multiplexed: bool) -> None:
    """Says to all fronts what the traffic is from now on."""
    _run({LEDGER: apps.service_args(traffic, config, multiplexed)[LEDGER]})


def deploy_front(traffic: Traffic, config: ServeConfig, multiplexed: bool) -> None:
    """Starts the fronts, which need a ledger. Raises RuntimeError where they cannot be started."""
    _run({FRONT: apps.service_args(traffic, config, multiplexed)[FRONT]})


def remove_students(traffic: Traffic) -> None:
    """Ends the students that no version of the traffic has."""
    kept = {part_app(part) for version in traffic.versions for part in version.parts}
    for name in serve.status().applications:
        if is_part_app(name) and name not in kept:
            serve.delete(name)


def stop_front() -> None:
    """Lets the fronts finish what they are at, then ends them."""
    if FRONT in serve.status().applications:
        serve.delete(FRONT)


def _run(said: Said) -> None:
    """Starts all of these at once, and waits until they run."""
    targets = [
        RunTarget(getattr(apps, build)(args), name, "/" if name == FRONT else None, QUIET)
        for name, (build, args) in said.items()
    ]
    if targets:
        serve.run_many(targets)
