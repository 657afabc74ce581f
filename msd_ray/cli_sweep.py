"""The commands on sweeps."""

import json
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from msd_ray.errors import Stopped, UserError
from msd_ray.stopping import STOP
from msd_ray.terminal import Watcher, out, table, wide


class _RunByDefault(TyperGroup):
    """`sweep FILE` is short for `sweep run FILE`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["run", *args])


sweep_app = typer.Typer(
    cls=_RunByDefault,
    no_args_is_help=True,
    help="Look for the partition and the student sizes: `msd-ray sweep DEFINITION` runs a sweep.",
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@sweep_app.command("run")
def run(
    definition: Annotated[str, typer.Argument(metavar="DEFINITION", help="A YAML file, such as tune_configs/*.yaml.")],
    run_dir: Annotated[
        str | None, typer.Option("--run-dir", metavar="URI", help="Where it lives; runs/sweeps/<name> by default.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="A", help="Ray cluster to attach to; RAY_ADDRESS, or a local one, by default."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a sweep and print its Pareto front. Run again, it goes on where it stopped."""
    from msd_ray.cluster.connect import listen_on_loopback
    from msd_ray.storage import Store
    from msd_ray.sweep.definition import load_definition
    from msd_ray.sweep.recipe_space import RecipeSpace

    recipe_space = RecipeSpace.of(load_definition(definition))
    store = Store(run_dir or f"runs/sweeps/{recipe_space.definition.name}")
    listen_on_loopback(address)
    from msd_ray.sweep.sweep import sweep

    STOP.resumable = True
    with Watcher() as watcher:
        try:
            journal = sweep(recipe_space, store, address, watcher)
        except (KeyboardInterrupt, Stopped):
            if store.exists("report.html"):
                watcher.note(f"the results so far: {store.uri}/report.html")
            raise
    _print_front(recipe_space.definition, journal.records, store.uri, as_json)


@sweep_app.command()
def best(
    sweep: Annotated[
        str,
        typer.Argument(metavar="SWEEP", help="A sweep's directory; may be left out where runs/sweeps has only one."),
    ] = "",
    objective: Annotated[
        str, typer.Option(metavar="METRICS", help="Such as fid,latency; by default the sweep's own metrics.")
    ] = "",
    max_latency_ms: Annotated[float | None, typer.Option(min=0.0, help="The longest latency that will do.")] = None,
    max_parameters: Annotated[
        int | None, typer.Option(min=1, help="The most parameters, of all students together.")
    ] = None,
    max_fid: Annotated[float | None, typer.Option(min=0.0, help="The highest FID that will do.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the recipe and the ensemble of a sweep's best trial: the one nearest to the best in each metric at once."""
    from msd_ray.sweep.best import find_best

    limits = {"latency_ms": max_latency_ms, "parameters": max_parameters, "fid": max_fid}
    found = find_best(sweep, objective, {k: float(v) for k, v in limits.items() if v is not None})
    if as_json:
        out.print_json(json.dumps(found.to_json()))
        return
    for line in found.lines():
        out.print(line, soft_wrap=True, highlight=False, markup=False)


def _print_front(definition: Any, records: Any, uri: str, as_json: bool) -> None:
    from msd_ray.sweep.best import described, front_rows
    from msd_ray.sweep.pareto import pareto_front

    on_it = pareto_front(records, definition.metrics)
    if as_json:
        out.print_json(json.dumps([described(record) for record in on_it]))
        return
    if not on_it:
        raise UserError(f"no trial ended well; {uri}/report.html says why each failed")
    wide.print(table(*front_rows(on_it)))
    out.print(f"report: {uri}/report.html", soft_wrap=True)
