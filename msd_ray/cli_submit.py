"""The commands `msd-ray submit`: training and sweeps on Kubernetes, or on any Ray cluster."""

from typing import Annotated, Any

import typer

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
    show,
)

submit_app = typer.Typer(help="Train or sweep on a cluster: Kubernetes with KubeRay, or any Ray.", no_args_is_help=True)
Name = Annotated[str, typer.Option(help="Of the release; from the recipe where not given.")]
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

        submit(address, training_job(name or own, made["train"]["recipe"], run_dir), follow, show, note)
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
        submit(
            address,
            sweep_job(name or own, sweep["definition"], sweep.get("recipe"), run_dir),
            follow,
            show,
            note,
        )
        return
    _submit(f"{name or own}-sweep", made, namespace, context, follow, force, dry_run)


@submit_app.command("delete")
def submit_delete(name: Release, namespace: Namespace = None, context: Context = None, yes: Yes = False) -> None:
    """Delete a release with its Ray cluster; its runs stay where they are."""
    delete(name, namespace, context, yes)


def _submit(
    name: str, values: Any, namespace: str | None, context: str | None, follow: bool, force: bool, dry_run: bool
) -> None:
    from msd_ray.kubernetes.rayjobs import follow as follow_job
    from msd_ray.kubernetes.rayjobs import submit
    from msd_ray.kubernetes.rendering import render

    if dry_run:
        print_objects(render(name, namespace or "default", values))
        return
    api = connected(context, namespace)
    job = submit(api, render(name, api.namespace, values), force, note)
    scheduled = bool(values.get("sweep", {}).get("schedule"))
    if follow and not scheduled:
        follow_job(api, job, show, note)


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
