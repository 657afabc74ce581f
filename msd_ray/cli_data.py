"""The commands on data sets."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from msd_ray.cli_results import AsJson
from msd_ray.errors import UserError
from msd_ray.terminal import err, out, table

if TYPE_CHECKING:
    from msd_ray.data import DataConfig, DataSet
    from msd_ray.data.inspection import Inspection

data_app = typer.Typer(help="Data sets.", no_args_is_help=True)
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RECIPE] [KEY=VALUE]...", help="A recipe and values that replace its own; with --name, options."
    ),
]
Name = Annotated[str | None, typer.Option(metavar="FORMAT", help="Such as parquet, instead of a recipe.")]
Folder = Annotated[str, typer.Option(metavar="URI", help="Where its files lie.")]
SHEET_CLASSES, SHEET_IMAGES = 20, 10
"""Rows of a sheet of samples, and images in each."""
MOST_CLASSES = 100
"""That are listed one by one; --json has all."""


@data_app.command()
def inspect(
    words: Words = None,
    name: Name = None,
    folder: Folder = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help=".png for a sheet of samples.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a data set holds: samples per class, sizes, mean and standard deviation, broken images."""
    from msd_ray.codecs import NO_CODEC, load_codec
    from msd_ray.data import load_data
    from msd_ray.data.inspection import inspect as inspect_data

    _refuse_other_suffix(output, ".png")
    config = _config(words or [], name, folder)
    data = load_data(config)
    if output and load_codec(NO_CODEC).picture_shape(data.shape) is None:
        raise UserError(f"--output: {config.name} has points, of which there is no sheet")
    with _progress(len(data.train)) as seen:
        found = inspect_data(data, seen)
    if output:
        _write_sheet(data, output)
    if as_json:
        out.print_json(json.dumps({"name": config.name, **asdict(found), "sigma_data": found.sigma_data}))
    else:
        _print(found)


@data_app.command()
def convert(
    output: Annotated[Path, typer.Option("--output", "-o", help="The .parquet to write.")],
    words: Words = None,
    name: Name = None,
    folder: Folder = "",
    split: Annotated[Literal["train", "held_out"], typer.Option(help="Which part of the set.")] = "train",
    as_json: AsJson = False,
) -> None:
    """Write a data set as Parquet, after its preprocessing, which the file names."""
    from msd_ray.data import load_data
    from msd_ray.data.conversion import convert as convert_data

    _refuse_other_suffix(output, ".parquet")
    config = _config(words or [], name, folder)
    data = load_data(config)
    part = data.train if split == "train" else data.held_out
    with _progress(len(part)) as seen:
        n = convert_data(config, data, part, output, seen)
    broken = len(part.broken)
    if as_json:
        out.print_json(json.dumps({"output": str(output), "images": n, "broken": broken}))
    else:
        left_out = f"; {broken} broken ones were left out" if broken else ""
        out.print(f"{n} images in {output}{left_out}", soft_wrap=True)


def _config(words: list[str], name: str | None, folder: str) -> "DataConfig":
    """Of a recipe, or of a format with its options."""
    from msd_ray.data import DataConfig
    from msd_ray.own_code import allow
    from msd_ray.recipes import load_recipe
    from msd_ray.recipes.yaml_files import read_value

    if name is None:
        if not words or folder:
            raise UserError("say which data set: a recipe, or --name and --folder")
        return load_recipe(words[0], words[1:]).data
    if odd := [word for word in words if "=" not in word]:
        raise UserError(f"{odd[0]!r} is not of the form key=value; give a recipe or --name, not both")
    allow(name)
    options = {key: read_value(key, value) for key, _, value in (word.partition("=") for word in words)}
    return DataConfig(name, folder, options)


def _refuse_other_suffix(output: Path | None, suffix: str) -> None:
    if output and (output.suffix != suffix or not output.absolute().parent.is_dir()):
        raise UserError(f"--output: give the path of a {suffix} file in a folder that exists, not {output}")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """What is told how many images were read."""
    from rich.progress import Progress

    with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("images", total=total)
        yield lambda n: progress.advance(task, n)


def _write_sheet(data: "DataSet", output: Path) -> None:
    from msd_ray.data.inspection import some_of_each
    from msd_ray.evaluation.tiles import sheet
    from msd_ray.storage import Store

    images = some_of_each(data.train, min(data.classes, SHEET_CLASSES), SHEET_IMAGES)
    Store(str(output.absolute().parent)).write(output.name, sheet(images))


def _print(found: "Inspection") -> None:
    rows = [(label, str(n), str(found.held_out[label])) for label, n in found.counts.items()]
    rows = rows if len(rows) <= MOST_CLASSES else [*rows[:MOST_CLASSES], ("...", "", "")]
    rows.append(("all", str(sum(found.counts.values())), str(sum(found.held_out.values()))))
    out.print(table(["class", "train", "held out"], rows))
    if len(found.counts) > MOST_CLASSES:
        out.print(f"classes have {min(found.counts.values())} to {max(found.counts.values())} training samples")
    out.print(f"samples of {list(found.shape)}, mean {found.total_mean:.3f}, standard deviation {found.total_std:.3f}")
    out.print(f"this suggests noise.sigma_data={found.sigma_data}")
    if found.broken:
        out.print(f"{len(found.broken)} broken images were skipped:")
    for said in found.broken:
        out.print(said, markup=False, soft_wrap=True)
