"""The command line. With `terminal`, the only place that prints."""

import json
import logging
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from msd_ray import __version__
from msd_ray.cli_kubernetes import deploy_app, submit_app
from msd_ray.cli_serve import serve_app
from msd_ray.cli_sweep import sweep_app
from msd_ray.errors import MsdRayError, Stopped, UserError
from msd_ray.ranges import LARGEST_SEED
from msd_ray.stopping import STOP
from msd_ray.terminal import Watcher, err, out, table, wide

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
teacher_app = typer.Typer(help="Teachers.", no_args_is_help=True)
app.add_typer(teacher_app, name="teacher")
app.add_typer(sweep_app, name="sweep")
app.add_typer(serve_app, name="serve")
app.add_typer(submit_app, name="submit")
app.add_typer(deploy_app, name="deploy")

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe (digits, toy2d) or a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values that replace the recipe's.")
]
RunDir = Annotated[
    str | None, typer.Option("--run-dir", metavar="URI", help="Where the run lives; runs/<recipe> by default.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Address = Annotated[
    str | None,
    typer.Option(metavar="A", help="Ray cluster to attach to; RAY_ADDRESS, or a local one, by default."),
]
INTERRUPTED = 130
"""What typer makes of Ctrl-C."""

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run directory.")]


def _version(asked: bool) -> None:
    if asked:
        out.print(f"msd-ray {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Distil one diffusion teacher into an ensemble of one-step students, on Ray."""


@app.command()
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
    _print_rows(rows, as_json)
    if not as_json:
        out.print(f"report: {context.store.uri}/report.html", soft_wrap=True)


@app.command()
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


@teacher_app.command("train")
def train_teacher(recipe: RecipeName, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Train a recipe's teacher in this process, without Ray, into the cache that `train` looks in first."""
    from msd_ray.runs.run_context import RunContext
    from msd_ray.runs.teacher_cache import train_here

    context = RunContext.of(recipe, overrides, None)
    folder = train_here(context.plan, context.cache, err.print)
    if as_json:
        out.print_json(json.dumps({"teacher": folder.uri, "parameters": context.plan.teacher.parameters()}))
    else:
        out.print(f"teacher: {folder.uri}", soft_wrap=True)


@app.command()
def generate(
    ensemble: Annotated[str, typer.Argument(metavar="ENSEMBLE", help="An ensemble, or the directory of its run.")],
    conditions: Annotated[str, typer.Option(help="Conditions, such as 0-9 or 3,3,7; one of 0-9 by default all.")] = "",
    seeds: Annotated[str, typer.Option(help="Seeds, such as 0-7; every condition is made with each.")] = "0-7",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help=".png for a sheet, .npy for the array; by default samples.png or .npy."),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(metavar="heun|ddim", help="Another sampler, for students of several steps.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Another number of its steps.")] = None,
    as_json: AsJson = False,
) -> None:
    """Generate samples: one network evaluation each, or 5 to 35 where the students were trained for several steps."""
    from msd_ray.runs.generate import generate_file

    made = generate_file(ensemble, conditions, seeds, output, sampler, steps, err.print)
    if as_json:
        out.print_json(json.dumps(made))
    else:
        out.print(
            f"{made['samples']} samples in {made['output']} ({made['ms_per_sample']:.2f} ms each)", soft_wrap=True
        )


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run directory, or an ensemble.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as evaluation.samples=5000.")
    ] = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Measure a run's ensemble against its teacher and held-out data, or an ensemble alone; the run stays as it is.
    Run again, it goes on where it stopped."""
    from msd_ray.cluster.connect import listen_on_loopback

    listen_on_loopback(address)
    from msd_ray.cluster.evaluation import measuring
    from msd_ray.runs.run_results import evaluate_uri

    with Watcher() as watcher, measuring(address, watcher) as complete:
        rows = evaluate_uri(run, overrides or [], complete, watcher.note)
    _print_rows(rows, as_json)


@app.command()
def report(run: Run, address: Address = None) -> None:
    """Write report.html, samples.png and metrics.parquet of a run again; of an unfinished one, the curves so far."""
    from msd_ray.cluster.connect import listen_on_loopback

    listen_on_loopback(address)
    from msd_ray.cluster.evaluation import measuring
    from msd_ray.runs.run_results import report_uri

    with Watcher() as watcher, measuring(address, watcher) as complete:
        written = report_uri(run, complete, watcher.note)
    for uri in written:
        out.print(uri, soft_wrap=True)


@app.command()
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


@app.command()
def reproduce(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An experiment; without one they are listed.")] = "",
    seeds: Annotated[
        list[int] | None,
        typer.Option(min=0, max=LARGEST_SEED, help="A seed; several may be given, 0, 1 and 2 by default."),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="URI", help="Where the page and the plot go.")
    ] = "runs/reproduce",
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Run a published experiment and print our figures beside the paper's claim; its runs stay in runs/reproduce."""
    from msd_ray.cluster.connect import listen_on_loopback

    listen_on_loopback(address)
    from msd_ray import reproduce as experiments
    from msd_ray.reproduce.experiment_page import grid, write_page
    from msd_ray.storage import Store, refuse_unwritable

    if name not in experiments.EXPERIMENTS:
        known = ", ".join(experiments.EXPERIMENTS)
        raise UserError(f"no experiment {name!r}: give one of {known}" if name else f"name an experiment: {known}")
    experiment, chosen, STOP.resumable = experiments.EXPERIMENTS[name], seeds or [0, 1, 2], True
    refuse_unwritable(Store(output), "give another place with -o")
    with Watcher() as watcher:
        found, findings = experiments.reproduce(experiment, chosen, f"runs/reproduce/{name}", address, watcher)
    written = write_page(Store(output), experiment, chosen, found, findings)
    if as_json:
        rows = {arm: {column: list(s.values) for column, s in row.items()} for arm, row in found.items()}
        out.print_json(json.dumps({"seeds": chosen, "rows": rows, "claims": [vars(f) for f in findings]}))
        return
    headers, cells = grid(experiment, found)
    wide.print(table(headers, cells))
    for finding in findings:
        verdict = "holds" if finding.holds else "does not hold"
        out.print(f"{verdict}: {finding.claim}\n  ours: {finding.figures}", soft_wrap=True, markup=False)
    for uri in written:
        out.print(uri, soft_wrap=True)


def _evaluated(context: Any, address: str | None, watcher: Watcher, idle: Any) -> list[Any]:
    """The rows of a finished run, measured where the students were trained, by the same processes."""
    from msd_ray.cluster.evaluation import measuring
    from msd_ray.runs.run_results import evaluate_once

    with measuring(address, watcher, idle) as complete:
        return evaluate_once(context, complete, watcher.note)


def _print_rows(rows: Any, as_json: bool) -> None:
    from msd_ray.evaluation import cells, headers, remarks, to_records

    if as_json:
        out.print_json(json.dumps(to_records(rows)))
        return
    wide.print(table(headers(), [cells(row) for row in rows]))
    for remark in remarks(rows):
        out.print(remark, soft_wrap=True, markup=False, highlight=False)


def _print_plan(context: Any, nodes: str | None, tflops: float | None, as_json: bool) -> None:
    from msd_ray.cluster.planning.outlook import outlook
    from msd_ray.runs.disk_needs import room_line
    from msd_ray.runs.plan import describe
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


def main() -> None:
    """Runs the command line; every error that a user can mend is one line on standard error."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        code = app(standalone_mode=False)
    except Stopped as stopped:
        _stop(stopped)
    except MsdRayError as error:
        _fail(str(error), error.exit_code)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except Exception as error:
        if not hasattr(error, "format_message"):  # what typer raises for wrong usage has one
            raise
        if not error.format_message():  # no arguments: the help was shown
            sys.exit(UserError.exit_code)
        _fail(error.format_message(), UserError.exit_code)
    if code == INTERRUPTED:
        _stop(STOP.stopped(signal.SIGINT))
    sys.exit(code if isinstance(code, int) else 0)


def _stop(stopped: Stopped) -> None:
    err.print(str(stopped), soft_wrap=True)
    sys.exit(stopped.exit_code)


def _fail(message: str, code: int) -> None:
    err.print(f"error: {message}", markup=False, soft_wrap=True)
    sys.exit(code)
