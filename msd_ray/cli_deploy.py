"""The commands `msd-ray deploy`: an ensemble as a service on Kubernetes."""

import json
from typing import Annotated

import typer

from msd_ray.cli_groups import by_default
from msd_ray.cli_kubernetes import (
    Context,
    DryRun,
    Force,
    Namespace,
    Overrides,
    Release,
    Set,
    ValuesFile,
    Yes,
    connected,
    delete,
    note,
    print_objects,
)
from msd_ray.terminal import out, table

deploy_app = typer.Typer(
    help="Serve an ensemble on Kubernetes: `deploy ENSEMBLE`, or a command for what is deployed.",
    cls=by_default("start"),
    no_args_is_help=True,
)


@deploy_app.command("start")
def deploy_start(
    ensemble: Annotated[str, typer.Argument(metavar="ENSEMBLE", help="An ensemble's URI, or that of its run.")],
    overrides: Overrides = None,
    config: Annotated[str | None, typer.Option(metavar="FILE", help="As for `msd-ray serve`.")] = None,
    copy_to: Annotated[str, typer.Option(metavar="URI", help="Copy a local ensemble there first.")] = "",
    name: Annotated[str, typer.Option(help="Of the release.")] = "ensemble",
    namespace: Namespace = None,
    context: Context = None,
    values: ValuesFile = None,
    said: Set = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait until it is healthy; 0 for none.")] = 900.0,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Serve an ensemble, or another one in its place, without losing a request. Twice the same changes nothing."""
    from msd_ray.kubernetes.rayservices import await_healthy, deploy
    from msd_ray.kubernetes.release_values import serving, where_pods_see_it
    from msd_ray.kubernetes.rendering import read_values, render
    from msd_ray.runs.run_directory import ensemble_folder

    chart_values = read_values(values, said or [])
    uri = where_pods_see_it(ensemble_folder(ensemble), copy_to)
    made = serving(chart_values, _serve_config(uri, config, overrides))
    if dry_run:
        print_objects(render(name, namespace or "default", made))
        return
    api = connected(context, namespace)
    service = deploy(api, render(name, api.namespace, made), force, note)
    if wait:
        await_healthy(api, service, wait, note)
    out.print(f"{service}-ensemble.{api.namespace}.svc", highlight=False)


@deploy_app.command("status")
def deploy_status(
    name: Release,
    namespace: Namespace = None,
    context: Context = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Print what KubeRay says of a service."""
    from msd_ray.errors import UserError

    api = connected(context, namespace)
    service = api.get("RayService", name)
    if service is None:
        raise UserError(f"there is no service {name} in namespace {api.namespace}")
    status = service.get("status", {})
    if as_json:
        out.print_json(json.dumps(status))
        return
    apps = (status.get("activeServiceStatus") or {}).get("applicationStatuses") or {}
    out.print(f"{name}: {status.get('serviceStatus') or 'not ready'}", highlight=False)
    out.print(table(["application", "status"], [[app, str(said.get("status"))] for app, said in sorted(apps.items())]))


@deploy_app.command("rollback")
def deploy_rollback(
    name: Release,
    namespace: Namespace = None,
    context: Context = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait until it is healthy; 0 for none.")] = 900.0,
) -> None:
    """Go back to what was deployed before."""
    from msd_ray.kubernetes.rayservices import await_healthy, roll_back

    api = connected(context, namespace)
    roll_back(api, name, note)
    if wait:
        await_healthy(api, name, wait, note)


@deploy_app.command("scale")
def deploy_scale(
    name: Release,
    replicas: Annotated[int, typer.Argument(metavar="N", min=0, help="Pods.")],
    group: Annotated[str, typer.Option(help="Which workers.")] = "cpu",
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Give a group of a service's workers another number of pods."""
    from msd_ray.kubernetes.rayservices import scale

    scale(connected(context, namespace), name, group, replicas, note)


@deploy_app.command("delete")
def deploy_delete(name: Release, namespace: Namespace = None, context: Context = None, yes: Yes = False) -> None:
    """Delete a service; its ensemble stays where it is."""
    delete(name, namespace, context, yes)


def _serve_config(uri: str, file: str | None, overrides: list[str] | None) -> str:
    """What `msd-ray serve config` prints."""
    from msd_ray.cluster.connect import listen_on_loopback
    from msd_ray.serving.service.config import load_config
    from msd_ray.serving.service.ensemble_facts import describe

    listen_on_loopback(None)
    from msd_ray.serving.serve_apps.manifest import as_yaml

    return as_yaml(describe(uri), load_config(file, overrides))
