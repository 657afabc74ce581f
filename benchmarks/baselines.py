"""The table of results with both one-student baselines, over seeds.

For each seed it runs `python -m msd_ray train RECIPE evaluation.baselines=true seed=S` as a user would, then takes the
mean and standard deviation of every column of every row. Run directories are kept: run again, it only trains what is
missing.

    python benchmarks/baselines.py --output docs/results/digits.md [--quick]
    python benchmarks/baselines.py --recipe toy2d --seeds 0 1 2 3 4 --overrides evaluation.samples=5000

The table goes to --output (and to standard error); the last line of standard output is one JSON object.
"""

import argparse
import json
import math
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import finish, say, spread, surroundings

Record = Mapping[str, Any]
Spread = Mapping[str, float | int | None]
Table = dict[str, dict[str, Any]]

COLUMNS = (
    "fid",
    "kid",
    "precision",
    "recall",
    "agreement",
    "parameters",
    "nfe",
    "images",
    "wall_seconds",
    "cpu_seconds",
    "ms_per_image",
)
COUNTS = ("parameters", "nfe", "images")
QUICK = (
    "stages.dm.images=64",
    "stages.adm.images=64",
    "teacher.images=512",
    "teacher.steps=4",
    "evaluation.samples=100",
    "evaluation.curve_samples=50",
    "training.checkpoint_every=64",
)


def aggregate(runs: Sequence[Sequence[Record]]) -> Table:
    """Row name -> samples scored, and each column's mean, sd and n over the runs (one per seed) that have a value.

    Rows are in the order in which they first appear. A column without any value is None.
    """
    names = list(dict.fromkeys(record["name"] for run in runs for record in run))
    return {name: _row([record for run in runs for record in run if record["name"] == name]) for name in names}


def _row(records: Sequence[Record]) -> dict[str, Any]:
    samples = sorted({record["n"] for record in records})
    columns = {column: [record[column] for record in records if _known(record.get(column))] for column in COLUMNS}
    return {"samples": samples, **{column: spread(values) if values else None for column, values in columns.items()}}


def _known(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def markdown(table: Table, recipe: str, command: str, seeds: Sequence[int], facts: Mapping[str, Any]) -> str:
    """The table as a page of its own, with all that is needed to make it again."""
    lines = [f"# Results: {recipe}", ""]
    lines += [f"Mean ± standard deviation; seeds: {', '.join(map(str, seeds))}; n: samples in the row. Made with", ""]
    lines += [f"    {command}", ""]
    lines += [f"on {facts['date']}: {facts['cpu']}, {facts['cpus']} logical CPUs; {_versions(facts['versions'])}.", ""]
    lines += ["FID, KID, precision and recall are measured in the recipe's features, against the training split."]
    lines += ["A student is judged against its own classes only: its FID compares with no other row's.", ""]
    return "\n".join([*lines, *_grid(table), ""])


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _grid(table: Table) -> list[str]:
    titles = ["sampler", "n", "FID@n", "KID x 1000", "precision", "recall", "agreement", "parameters", "NFE", "images"]
    titles += ["wall s", "CPU s", "ms/image"]
    rule = ["---", *["---:"] * (len(titles) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in [titles, rule, *(_cells(name, row) for name, row in table.items())]]


def _cells(name: str, row: Mapping[str, Any]) -> list[str]:
    cells = [name, "/".join(map(str, row["samples"]))]
    for column in COLUMNS:
        scale = 1000.0 if column == "kid" else 1.0
        cells.append(_count(row[column]) if column in COUNTS else _text(row[column], scale))
    return cells


def _count(value: Spread | None) -> str:
    """A number that no seed changes."""
    return "-" if value is None or value["mean"] is None else f"{value['mean']:,.0f}"


def _text(value: Spread | None, scale: float) -> str:
    """Mean ± sd with three significant digits; the mean alone where there is one value."""
    if value is None or value["mean"] is None:
        return "-"
    mean = f"{scale * value['mean']:.3g}"
    return mean if value["sd"] is None else f"{mean} ± {scale * value['sd']:.2g}"


def train(recipe: str, overrides: Sequence[str], seed: int, run_dir: Path) -> list[Record]:
    """The table of one seed; progress passes through to standard error. Exits where the run fails."""
    asked = [*overrides, "evaluation.baselines=true", f"seed={seed}"]
    command = [sys.executable, "-m", "msd_ray", "train", recipe, *asked, "--run-dir", str(run_dir), "--json"]
    say(f"seed {seed}: {shlex.join(command[1:])}")
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"the run of seed {seed} failed with exit code {done.returncode}")
    records: list[Record] = json.loads(done.stdout)
    return records


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--overrides", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs", type=Path, default=Path("runs/baselines"), help="where run directories are kept")
    parser.add_argument("--output", type=Path, help="markdown file to write the table to")
    parser.add_argument("--quick", action="store_true", help="one seed, a token amount of training, runs of its own")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.overrides = args.seeds[:1], [*QUICK, *args.overrides]
        args.runs = args.runs / "quick"
    return args


def command_of(args: argparse.Namespace) -> str:
    """The command that makes the same table, wherever its runs and its page are kept."""
    options = ["--recipe", args.recipe, "--seeds", *map(str, args.seeds)]
    options += ["--overrides", *args.overrides] if args.overrides else []
    return shlex.join(["python", "benchmarks/baselines.py", *options])


def main() -> None:
    args = arguments()
    name = Path(args.recipe).stem
    runs = [train(args.recipe, args.overrides, s, args.runs / f"{name}-seed{s}") for s in args.seeds]
    table, command = aggregate(runs), command_of(args)
    page = markdown(table, name, command, args.seeds, surroundings())
    say(page)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(page)
    finish("baselines", {"device": "cpu", "recipe": name, "command": command, "seeds": args.seeds, "table": table})


if __name__ == "__main__":
    main()
