"""Starts and ends the applications of a service on the connected cluster."""

import re
import time
from collections.abc import Iterable, Sequence

from ray import serve
from ray.exceptions import RayError
from ray.serve import RunTarget
from ray.serve.exceptions import RayServeException

from msd_ray.errors import MsdRayError, UserError
from msd_ray.serving.serve_apps import apps
from msd_ray.serving.serve_apps.app_names import ANY_PART, GATEWAY, REGISTRY, is_ours, is_part_app, model_id, part_app
from msd_ray.serving.serve_apps.serve_options import serve_options
from msd_ray.serving.service.config import Placement, ServeConfig
from msd_ray.serving.service.student_worker import load_part
from msd_ray.serving.service.versions import Traffic, Version

QUIET = {"log_level": "WARNING", "enable_access_log": False}  # gateways have an access log of their own
READY = 300.0  # seconds that students may take to be loaded
ENDS = 45.0  # seconds in which Serve notices and ends a process that hangs
Said = dict[str, tuple[str, apps.Args]]


def start_serve(config: ServeConfig) -> None:
    """Starts Serve's controller and its HTTP proxy on each node, unless they run already. Raises UserError if an
    ensemble is served already, or if a running proxy would not encrypt what should be encrypted."""
    status = serve.status()
    if GATEWAY in status.applications:
        raise UserError(
            "this cluster serves an ensemble already: change it with `msd-ray serve update`, or end that service first"
        )
    if status.proxies and config.gateway.tls_cert:
        raise UserError("Serve runs on this cluster already, and its HTTP port cannot be given certificates any more")
    try:
        serve.start(**serve_options(config), logging_config={"log_level": "WARNING"})
    except RayError as error:  # its HTTP proxy did not come up
        raise _cannot_start(str(error)) from None


def deploy_students(version: Version, config: ServeConfig, placement: Placement) -> None:
    """Starts those students of a version that do not run yet, and waits until they do. Raises UserError if one cannot
    be started."""
    running = {name for name, app in serve.status().applications.items() if app.status == "RUNNING"}
    wanted = apps.student_args(version, config, placement)
    _run({name: said for name, said in wanted.items() if name not in running})
    for part in range(len(version.parts)):
        if placement == "gateway":
            _refuse_damaged(version, part)
        else:
            _refuse_unready(version, part, placement)


def deploy_registry(traffic: Traffic, config: ServeConfig, placement: Placement) -> None:
    """Sets the traffic of all gateways."""
    _run({REGISTRY: apps.service_args(traffic, config, placement)[REGISTRY]})


def deploy_gateway(traffic: Traffic, config: ServeConfig, placement: Placement) -> None:
    """Starts the gateways, which need a registry of versions. Raises UserError if they cannot be started."""
    _run({GATEWAY: apps.service_args(traffic, config, placement)[GATEWAY]})


def remove_students(traffic: Traffic) -> None:
    """Ends the students of versions that are no longer in the traffic."""
    kept = {part_app(part) for version in traffic.versions for part in version.parts}
    _delete([name for name in serve.status().applications if is_part_app(name) and name not in kept], ENDS)


def end(drain_seconds: float) -> None:
    """Drains the gateways, which may take so long, ends all applications of the service, and Serve itself if nobody
    else uses it."""
    if GATEWAY in serve.status().applications:
        _delete([GATEWAY], drain_seconds + ENDS)  # first, so that running requests still find their students
    left = list(serve.status().applications)
    ours = [name for name in left if is_ours(name)]
    if ours == left:
        serve.shutdown()  # type: ignore[no-untyped-call]
        return
    _delete(ours, ENDS)


def _delete(names: Sequence[str], seconds: float) -> None:
    """Ends applications, and waits so long for it at most: then Serve goes on with what is left. `serve.delete` itself
    waits for 60 s, and fails."""
    for name in names:
        serve.delete(name, _blocking=False)
    last = time.monotonic() + seconds
    while time.monotonic() < last and not serve.status().applications.keys().isdisjoint(names):
        time.sleep(0.1)


def _run(said: Said) -> None:
    """Starts all of these at once, and waits until they run. Raises UserError if one cannot be started."""
    targets = [
        RunTarget(getattr(apps, build)(args), name, "/" if name == GATEWAY else None, QUIET)
        for name, (build, args) in said.items()
    ]
    try:
        if targets:
            serve.run_many(targets)
    except RuntimeError as error:
        raise _cannot_start(_complaints(said) or str(error)) from None


def _refuse_damaged(version: Version, part: int) -> None:
    """Raises UserError if a part's students cannot be loaded; gateways that run already would only report that."""
    try:
        load_part(version.uri, part, version.parts[part], "cpu")
    except MsdRayError as error:
        raise UserError(f"it does not start: {error}") from None


def _refuse_unready(version: Version, part: int, placement: Placement) -> None:
    """Raises UserError if a part's students cannot be loaded, so that damage is noticed before they get requests."""
    of = version.parts[part]
    handle = serve.get_app_handle(ANY_PART if placement == "multiplexed" else part_app(of))
    if placement == "multiplexed":
        handle = handle.options(multiplexed_model_id=model_id(version.uri, part, of))
    try:
        why = handle.ready.remote().result(timeout_s=READY)
    except (RayError, RayServeException) as error:
        raise _cannot_start(str(error)) from None
    except TimeoutError:
        raise UserError(f"it does not start: part {part} does not say within {READY:g} s whether it is ready") from None
    if why:
        raise UserError(f"it does not start: {why}")


def _cannot_start(said: str) -> UserError:
    """The last line of a traceback, which says what happened."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    reason = re.sub(r"^[\w.]+Error: ", "", lines[-1])[:300] if lines else "Serve gives no reason"
    return UserError(f"it does not start: {reason}")


def _complaints(names: Iterable[str]) -> str:
    """Serve's messages about the deployments of these applications that do not run."""
    apps = serve.status().applications
    of = [deployment for name in names if name in apps for deployment in apps[name].deployments.values()]
    return "\n".join(deployment.message for deployment in of if deployment.status != "HEALTHY")
