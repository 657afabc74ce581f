"""The commands on teachers: training one, and what others trained."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from msd_ray.cli_results import AsJson
from msd_ray.errors import UserError
from msd_ray.terminal import err, out

teacher_app = typer.Typer(help="Teachers.", no_args_is_help=True)
TeacherPath = Annotated[str, typer.Argument(metavar="PATH", help="A file or directory of a teacher.")]
Options = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As `teacher.options` in a recipe.")
]


@teacher_app.command("train")
def train_teacher(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe (digits, toy2d) or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values that replace the recipe's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a recipe's teacher in this process, without Ray, into the cache that `train` looks in first."""
    from msd_ray.runs.run_context import RunContext
    from msd_ray.runs.teacher_cache import train_here

    context = RunContext.of(recipe, overrides, None)
    folder = train_here(context.plan, context.cache, err.print)
    if as_json:
        out.print_json(json.dumps({"teacher": folder.uri, "parameters": context.plan.teacher.parameters()}))
    else:
        out.print(f"teacher: {folder.uri}", soft_wrap=True)


@teacher_app.command("inspect")
def inspect_teacher(path: TeacherPath, options: Options = None, as_json: AsJson = False) -> None:
    """Print what a teacher's file is: network, parameters, resolution, classes, preconditioning, licence, sha256.
    Nothing in it is executed."""
    from msd_ray.teachers.inspection import inspect

    found = inspect(path, _values(options))
    if as_json:
        out.print_json(json.dumps(found))
        return
    recipe = found.pop("recipe", None)
    for key, value in found.items():
        out.print(f"{key.replace('_', ' ')}: {_shown(value)}", soft_wrap=True, markup=False, highlight=False)
    if recipe:
        flow = yaml.safe_dump(recipe, default_flow_style=True, sort_keys=False, width=10**6).strip()[1:-1]
        out.print(f"for a recipe: {flow}", soft_wrap=True, markup=False, highlight=False)


@teacher_app.command("convert")
def convert_teacher(
    path: TeacherPath,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="A directory that is made.")],
    options: Options = None,
    as_json: AsJson = False,
) -> None:
    """Make a bundle of ours of a teacher's file, for recipes' `teacher.from`. Nothing in it is executed."""
    from msd_ray.teachers.inspection import convert

    checkpoint = convert(path, _values(options), output)
    if as_json:
        out.print_json(json.dumps({"teacher": str(output), "parameters": checkpoint.spec.parameters()}))
    else:
        out.print(f"teacher: {output}", soft_wrap=True)


def _values(options: list[str] | None) -> dict[str, Any]:
    from msd_ray.recipes.yaml_files import read_value

    values = {}
    for option in options or []:
        key, equals, text = option.partition("=")
        if not key or not equals:
            raise UserError(f"{option!r} is not of the form key=value")
        values[key] = read_value(key, text)
    return values


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(str(v) if k == "kind" else f"{k} {v}" for k, v in value.items())
    if isinstance(value, list):
        return " x ".join(str(v) for v in value) if all(isinstance(v, int) for v in value) else _range(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _range(ends: list[float | None]) -> str:
    low, high = ends
    return f"{low:g} to {high:g}" if high is not None else "all"
