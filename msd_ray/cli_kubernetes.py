"""The commands on Kubernetes: `msd-ray submit` and `msd-ray deploy`."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from msd_ray.cli_groups import StartsByDefault
from msd_ray.terminal import err, out, table

if TYPE_CHECKING:
    from msd_ray.kubernetes.api import Api


submit_app = typer.Typer(help="Train or sweep on a cluster: Kubernetes with KubeRay, or any Ray.", no_args_is_help=True)
deploy_app = typer.Typer(
    help="Serve an ensemble on Kubernetes: `deploy ENSEMBLE`, or a command for what is deployed.",
    cls=StartsByDefault,
    no_args_is_help=True,
)

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values that replace others.")]
Name = Annotated[str, typer.Option(help="Of the release; from the recipe where not given.")]
Release = Annotated[str, typer.Argument(metavar="NAME", help="The release.")]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="The context's by default.")]
Context = Annotated[str | None, typer.Option(help="Of the kubeconfig; the active one by default.")]
ValuesFile = Annotated[str | None, typer.Option("--values", metavar="FILE", help="Values of the chart, as for helm.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One value of the chart.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the objects as YAML and stop.")]
Force = Annotated[bool, typer.Option("--force", help="Take over fields that others set.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Address = Annotated[
    str | None, typer.Option(metavar="A", help="http:// of a Ray cluster's dashboard, or ray://: no Kubernetes then.")
]
RunDir = Annotated[str, typer.Option("--run-dir", metavar="URI", help="With --address: where the run lives.")]
Follow = Annotated[bool, typer.Option("--follow/--no-follow", help="Show the log until it ends.")]


@submit_app.command("train")
def submit_train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe or a YAML file.")],
    overrides: Overrides = None,
    name: Name = "",
    namespace: Namespace = None,
    context: Context = None,
    values: ValuesFile = None,
    said: Set = None,
    address: Address = None,
    run_dir: RunDir = "",
    follow: Follow = True,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Train on a cluster. The same command again follows a run that goes on, and resumes one that ended."""
    from msd_ray.kubernetes.release_values import training
    from msd_ray.kubernetes.rendering import read_values

    _check_place(address, run_dir, namespace, context, values, said, force, dry_run)
    own, made = training(read_values(values, said or []), recipe, overrides or [])
    if address:
        from msd_ray.cluster.ray_jobs import submit, training_job

        submit(address, training_job(name or own, made["train"]["recipe"], run_dir), follow, _show, _note)
        return
    _submit(f"{name or own}-train", made, namespace, context, follow, force, dry_run)


@submit_app.command("sweep")
def submit_sweep(
    definition: Annotated[str, typer.Argument(metavar="DEFINITION", help="A YAML file, as for `msd-ray sweep`.")],
    name: Name = "",
    namespace: Namespace = None,
    context: Context = None,
    values: ValuesFile = None,
    said: Set = None,
    address: Address = None,
    run_dir: RunDir = "",
    follow: Follow = True,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Sweep on a cluster. The same command again follows or resumes it."""
    from msd_ray.kubernetes.release_values import sweeping
    from msd_ray.kubernetes.rendering import read_values

    _check_place(address, run_dir, namespace, context, values, said, force, dry_run)
    own, made = sweeping(read_values(values, said or []), definition)
    if address:
        from msd_ray.cluster.ray_jobs import submit, sweep_job

        sweep = made["sweep"]
        submit(address, sweep_job(name or own, sweep["definition"], sweep.get("recipe"), run_dir), follow, _show, _note)
        return
    _submit(f"{name or own}-sweep", made, namespace, context, follow, force, dry_run)


@submit_app.command("delete")
def submit_delete(name: Release, namespace: Namespace = None, context: Context = None, yes: Yes = False) -> None:
    """Delete a release with its Ray cluster; its runs stay where they are."""
    _delete(name, namespace, context, yes)


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
        _print_objects(render(name, namespace or "default", made))
        return
    api = _api(context, namespace)
    service = deploy(api, render(name, api.namespace, made), force, _note)
    if wait:
        await_healthy(api, service, wait, _note)
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

    api = _api(context, namespace)
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

    api = _api(context, namespace)
    roll_back(api, name, _note)
    if wait:
        await_healthy(api, name, wait, _note)


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

    scale(_api(context, namespace), name, group, replicas, _note)


@deploy_app.command("delete")
def deploy_delete(name: Release, namespace: Namespace = None, context: Context = None, yes: Yes = False) -> None:
    """Delete a service; its ensemble stays where it is."""
    _delete(name, namespace, context, yes)


def _submit(
    name: str, values: Any, namespace: str | None, context: str | None, follow: bool, force: bool, dry_run: bool
) -> None:
    from msd_ray.kubernetes.rayjobs import follow as follow_job
    from msd_ray.kubernetes.rayjobs import submit
    from msd_ray.kubernetes.rendering import render

    if dry_run:
        _print_objects(render(name, namespace or "default", values))
        return
    api = _api(context, namespace)
    job = submit(api, render(name, api.namespace, values), force, _note)
    scheduled = bool(values.get("sweep", {}).get("schedule"))
    if follow and not scheduled:
        follow_job(api, job, _show, _note)


def _check_place(address: str | None, run_dir: str, *of_kubernetes: Any) -> None:
    """Raises UserError where options of Kubernetes and of a Ray cluster are mixed."""
    from msd_ray.errors import UserError

    if address and any(of_kubernetes):
        raise UserError(
            "--address is a Ray cluster without Kubernetes: leave out -n, --context, --values, --set, --force "
            "and --dry-run"
        )
    if run_dir and not address:
        raise UserError("--run-dir goes with --address; on Kubernetes say --set storage.runs=s3://bucket/runs")


def _note(line: str) -> None:
    """A line for whoever waits."""
    err.print(line, markup=False, highlight=False, soft_wrap=True)


def _show(line: str) -> None:
    """A line of a log, as it is."""
    out.print(line, highlight=False, markup=False, soft_wrap=True)


def _delete(name: str, namespace: str | None, context: str | None, yes: bool) -> None:
    from msd_ray.errors import UserError
    from msd_ray.kubernetes.api import delete_release

    api = _api(context, namespace)
    try:
        if not (yes or typer.confirm(f"delete release {name} in namespace {api.namespace}?", err=True)):
            raise typer.Exit(UserError.exit_code)
    except typer.Abort:  # standard input has ended
        raise UserError("nobody answers the question: give --yes") from None
    if not delete_release(api, name, _note):
        raise UserError(f"there is no release {name} in namespace {api.namespace}")


def _serve_config(uri: str, file: str | None, overrides: list[str] | None) -> str:
    """What `msd-ray serve config` prints."""
    from msd_ray.cluster.connect import listen_on_loopback
    from msd_ray.serving.service.config import load_config
    from msd_ray.serving.service.ensemble_facts import describe

    listen_on_loopback(None)
    from msd_ray.serving.serve_apps.manifest import as_yaml

    return as_yaml(describe(uri), load_config(file, overrides))


def _api(context: str | None, namespace: str | None) -> "Api":
    from msd_ray.kubernetes.api import connect

    return connect(context, namespace, _note)


def _print_objects(objects: Any) -> None:
    import yaml

    out.print(yaml.safe_dump_all(objects, sort_keys=False), markup=False, highlight=False, soft_wrap=True)
