"""The commands on what a run results in, and on published experiments."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from msd_ray.cli_groups import by_default
from msd_ray.errors import UserError
from msd_ray.ranges import LARGEST_SEED
from msd_ray.stopping import STOP
from msd_ray.terminal import Watcher, err, out, table, wide

results_app = typer.Typer()
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Address = Annotated[
    str | None,
    typer.Option(metavar="A", help="Ray cluster to attach to; RAY_ADDRESS, or a local one, by default."),
]


@results_app.command()
def generate(
    ensemble: Annotated[str, typer.Argument(metavar="ENSEMBLE", help="An ensemble, or the directory of its run.")],
    conditions: Annotated[str, typer.Option(help="Conditions, such as 0-9 or 3,3,7; one of 0-9 by default all.")] = "",
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="What to make, in words; several times for several.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, such as 0-7; every condition is made with each.")] = "0-7",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help=".png for a sheet, .npy for the array; by default samples.png or .npy."),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(metavar="heun|ddim", help="Another sampler, for students of several steps.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", help="Another number of steps; at most those trained, for students of a few."),
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(metavar="W", help="Another guidance, for students that learnt several.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say which student makes what, and how much farther the next one is.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Generate samples, in as many network evaluations each as the students were trained for."""
    from msd_ray.runs.generate import generate_file

    made = generate_file(ensemble, conditions, seeds, output, sampler, steps, err.print, prompt or (), guidance)
    if as_json:
        out.print_json(json.dumps(made))
    else:
        out.print(
            f"{made['samples']} samples in {made['output']} ({made['ms_per_sample']:.2f} ms each)", soft_wrap=True
        )
        if explain:
            out.print(table(["asked", "students", "margin"], _places(made["conditions"])))


def _places(conditions: list[dict[str, Any]]) -> list[list[str]]:
    """Which students make each condition, and the margin where a rule gave it to them."""
    return [
        [
            escape(str(each["asked"])),
            ", ".join(map(str, each["students"])),
            "" if each["margin"] is None else f"{each['margin']:.3g}",
        ]
        for each in conditions
    ]


@results_app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run directory, or an ensemble.")],
    form: Annotated[str, typer.Option("--format", metavar="safetensors|diffusers|onnx", help="For which programs.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="A directory that is made.")],
    student: Annotated[
        int | None, typer.Option(metavar="N", help="One student; without it all of them, in one diffusers pipeline.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write students for other programs, with a model card: weights, a diffusers pipeline or an ONNX model."""
    from msd_ray.export import export as write

    made = write(run, form, student, output)
    if as_json:
        out.print_json(json.dumps(made))
    else:
        out.print(f"{_counted(made['students'])} in {made['output']}", soft_wrap=True)


def _counted(students: list[int]) -> str:
    return f"student {students[0]}" if len(students) == 1 else f"{len(students)} students"


_RUN = "run-or-ensemble"
"""What `evaluate RUN` is short for. No directory has this name."""
evaluate_app = typer.Typer(
    help="Measure a run's ensemble: `evaluate RUN`; or the statistics of real samples.",
    cls=by_default(_RUN),
    no_args_is_help=True,
)
results_app.add_typer(evaluate_app, name="evaluate")


@evaluate_app.command(_RUN, hidden=True)
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
    print_rows(rows, as_json)


@evaluate_app.command()
def reference(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe or a YAML file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .npz to write.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as evaluation.features=inception.")
    ] = None,
    address: Address = None,
) -> None:
    """Write mean and covariance of the features of a recipe's training data, which an FID is measured against."""
    from msd_ray.cluster.connect import listen_on_loopback

    if output.suffix != ".npz" or not output.absolute().parent.is_dir():
        raise UserError(f"--output: give the path of a .npz file in a folder that exists, not {output}")
    listen_on_loopback(address)
    from msd_ray.cluster.evaluation import measuring
    from msd_ray.runs.run_results import make_reference

    with Watcher() as watcher, measuring(address, watcher) as complete:
        said = make_reference(recipe, overrides or [], output, complete)
    out.print(said, soft_wrap=True)


@results_app.command()
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


@results_app.command()
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


def print_rows(rows: Any, as_json: bool) -> None:
    """The table of scores, with what is to be said of it."""
    from msd_ray.evaluation import remarks, tables, to_records

    if as_json:
        out.print_json(json.dumps(to_records(rows)))
        return
    for headers, cells in tables(rows):
        wide.print(table(headers, cells))
    for remark in remarks(rows):
        out.print(remark, soft_wrap=True, markup=False, highlight=False)
