"""What the commands on Kubernetes have in common: options, and how they answer."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from msd_ray.terminal import err, out

if TYPE_CHECKING:
    from msd_ray.kubernetes.api import Api

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values that replace others.")]
Release = Annotated[str, typer.Argument(metavar="NAME", help="The release.")]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="The context's by default.")]
Context = Annotated[str | None, typer.Option(help="Of the kubeconfig; the active one by default.")]
ValuesFile = Annotated[str | None, typer.Option("--values", metavar="FILE", help="Values of the chart, as for helm.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One value of the chart.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the objects as YAML and stop.")]
Force = Annotated[bool, typer.Option("--force", help="Take over fields that others set.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def note(line: str) -> None:
    """A line for whoever waits."""
    err.print(line, markup=False, highlight=False, soft_wrap=True)


def show(line: str) -> None:
    """A line of a log, as it is."""
    out.print(line, highlight=False, markup=False, soft_wrap=True)


def delete(name: str, namespace: str | None, context: str | None, yes: bool) -> None:
    """Deletes a release, after a question unless `yes`. Raises UserError where there is none, or nobody answers."""
    from msd_ray.errors import UserError
    from msd_ray.kubernetes.api import delete_release

    api = connected(context, namespace)
    try:
        if not (yes or typer.confirm(f"delete release {name} in namespace {api.namespace}?", err=True)):
            raise typer.Exit(UserError.exit_code)
    except typer.Abort:  # standard input has ended
        raise UserError("nobody answers the question: give --yes") from None
    if not delete_release(api, name, note):
        raise UserError(f"there is no release {name} in namespace {api.namespace}")


def connected(context: str | None, namespace: str | None) -> "Api":
    """The API server of a context, in a namespace of it."""
    from msd_ray.kubernetes.api import connect

    return connect(context, namespace, note)


def print_objects(objects: Any) -> None:
    """As YAML, for --dry-run."""
    import yaml

    out.print(yaml.safe_dump_all(objects, sort_keys=False), markup=False, highlight=False, soft_wrap=True)
