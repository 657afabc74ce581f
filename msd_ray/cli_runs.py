"""The commands that train, and say what training would take and how it stands."""

import json
from functools import partial
from typing import Annotated, Any

import typer

from msd_ray.cli_results import Address, AsJson, Run, print_rows
from msd_ray.cli_teachers import teacher_app
from msd_ray.stopping import STOP
from msd_ray.terminal import Watcher, err, out, table, wide

runs_app = typer.Typer()
runs_app.add_typer(teacher_app, name="teacher")
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe (digits, toy2d) or a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values that replace the recipe's.")
]
RunDir = Annotated[
    str | None, typer.Option("--run-dir", metavar="URI", help="Where the run lives; runs/<recipe> by default.")
]


@runs_app.command()
def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    address: Address = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved plan and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Distil a teacher into an ensemble, evaluate it and write its report. Run again, it goes on where it stopped."""
    from msd_ray.runs.run_context import RunContext

    context = RunContext.of(recipe, overrides, run_dir)
    if dry_run:
        _print_plan(context, None, None, as_json)
        return
    from msd_ray.cluster.connect import listen_on_loopback
    from msd_ray.runs.run_status import mark_stopped

    listen_on_loopback(address)
    from msd_ray.cluster.train import train as train_plan
    from msd_ray.runs.broken_images import broken_images

    plan, STOP.resumable, rows = context.plan, True, list[Any]()
    stopped = partial(mark_stopped, context.store)
    with Watcher() as watcher, STOP.before_the_end(stopped):
        train_plan(
            plan,
            context.store,
            context.cache,
            address,
            watcher,
            then=lambda idle: rows.extend(_evaluated(context, address, watcher, idle)),
        )
    print_rows(rows, as_json)
    if note := broken_images(context):
        err.print(note, soft_wrap=True, markup=False)
    if not as_json:
        out.print(f"report: {context.store.uri}/report.html", soft_wrap=True)


def _evaluated(context: Any, address: str | None, watcher: Watcher, idle: Any) -> list[Any]:
    """The rows of a finished run, measured where the students were trained, by the same processes."""
    from msd_ray.cluster.evaluation import measuring
    from msd_ray.runs.run_results import evaluate_once

    with measuring(address, watcher, idle) as complete:
        return evaluate_once(context, complete, watcher.note)


@runs_app.command()
def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    cluster: Annotated[
        str | None, typer.Option(metavar="FILE", help="YAML that lists nodes; this machine by default.")
    ] = None,
    tflops: Annotated[
        float | None,
        typer.Option(min=1e-6, max=1e9, help="What a student's GPU or CPUs reach; else updates are tried here."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print what `train` would do, how long it would take, what it would cost, and how much memory it needs."""
    from msd_ray.runs.run_context import RunContext

    _print_plan(RunContext.of(recipe, overrides, run_dir), cluster, tflops, as_json)


@runs_app.command()
def status(run: Run, as_json: AsJson = False) -> None:
    """Print how a run stands: its students, slots and teacher pool, the time left, what it cost; from any machine."""
    from msd_ray.runs.run_status import read_status
    from msd_ray.storage import Store
    from msd_ray.terminal import status_lines, status_rows

    status = read_status(Store(run))
    if as_json:
        out.print_json(json.dumps(status.to_json()))
        return
    for line in status_lines(status):
        out.print(line, soft_wrap=True, highlight=False, markup=False)
    wide.print(table(*status_rows(status)))


@runs_app.command()
def track(
    run: Run,
    destination: Annotated[str, typer.Argument(metavar="TO", help="tensorboard:DIR, or mlflow:URI.")],
    follows: Annotated[bool, typer.Option("--follow", help="Go on until the run has finished.")] = False,
) -> None:
    """Send a run's curves to TensorBoard or MLflow; run again, it sends what is new. Steps are images seen."""
    from msd_ray.runs.run_context import RunContext
    from msd_ray.runs.trackers import tracker_of
    from msd_ray.runs.tracking import follow
    from msd_ray.runs.tracking import track as send
    from msd_ray.storage import Store

    context = RunContext.of_run(Store(run), [])
    tracker = tracker_of(destination, context.store.uri)
    if follows:
        follow(context, tracker, partial(err.print, soft_wrap=True))
    else:
        out.print(f"{send(context, tracker)} points sent to {destination}", soft_wrap=True, markup=False)


def _print_plan(context: Any, nodes: str | None, tflops: float | None, as_json: bool) -> None:
    from msd_ray.cluster.planning.outlook import outlook
    from msd_ray.runs.disk_needs import room_line
    from msd_ray.runs.plan_description import describe
    from msd_ray.terminal import forecast_lines, needs_lines, with_forecast

    facts, found = describe(context.plan), outlook(context, nodes, tflops)
    facts["disk"] = room_line(context.plan, context.store)
    if as_json:
        out.print_json(json.dumps({**facts, "needs": found.to_json(), "forecast": found.forecast.to_json()}))
        return
    students = with_forecast(facts.pop("students"), found.forecast)
    described = [f"{key.replace('_', ' ')}: {value}" for key, value in facts.items()]
    for line in [*described, *needs_lines(found), *forecast_lines(found.forecast)]:
        out.print(line, soft_wrap=True, highlight=False)
    headers = list(students[0])
    wide.print(table(headers, [[str(s[h]) for h in headers] for s in students]))
