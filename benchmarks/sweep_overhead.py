"""What a sweep costs beside the same trials one by one: wall time of `msd-ray sweep`, one trial at a time, over the sum
of that of `msd-ray train` for each trial's recipe. Both have their teacher and feature network in the cache beforehand;
pairs, where a method needs them, are made by the sweep, which comes first.

    python benchmarks/sweep_overhead.py [--definition tune_configs/digits-quick.yaml] [--quick]

A trial of a sweep is measured, as a run of `train` is, but has no teacher row and no report of its own: those are for
the sweep as a whole. The definition must let every trial train to its end, so it has no scheduler. --quick: two trials
of a few hundred images, which shows that the script works; its figures mean nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import finish, say

from msd_ray.errors import UserError
from msd_ray.evaluation import load_features
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.teacher_cache import train_here
from msd_ray.sweep.definition import load_definition
from msd_ray.sweep.recipe_space import RecipeSpace

QUICK = """\
name: quick
recipe: toy2d
overrides:
  teacher.images: 5_120
  data.samples: 512
  evaluation.samples: 64
  stages: {dm: {objective: dm, images: 512, batch: 64, generator_lr: 5e-4, fake_lr: 1e-3, warmup: 0}}
space: {partition.k: [1, 2]}
metrics: {fid: min}
"""


def seconds_of(*arguments: str) -> float:
    """Wall time of one command of msd-ray; its output is thrown away unless it fails."""
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "msd_ray", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"msd-ray {' '.join(arguments)} failed: {done.stderr}")
    return time.perf_counter() - begin


def recipes_of(recipe_space: RecipeSpace, folder: Path) -> list[Path]:
    """The trials' recipes as files. Raises UserError where the sweep does not know them beforehand."""
    definition = recipe_space.definition
    if recipe_space.listed is None or definition.scheduler.kind != "none" or definition.trials.concurrent != 1:
        raise UserError("give a definition with a grid or random search, one trial at a time and no scheduler")
    paths = []
    for number, choice in enumerate(recipe_space.listed):
        paths.append(folder / f"{number:04d}.yaml")
        paths[-1].write_text(json.dumps(recipe_space.recipe(number, choice).to_json()))
    return paths


def warm_cache(recipe: Path) -> None:
    """Puts what both ways take from the cache into it."""
    context = RunContext.of(str(recipe), None, None)
    train_here(context.plan, context.cache, say)
    load_features(context.recipe.evaluation.features, context.data, context.cache)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--definition", default="tune_configs/digits-quick.yaml")
    parser.add_argument("--quick", action="store_true", help="two tiny trials")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["MSD_RAY_CACHE"] = str(folder / "cache")
        if args.quick:
            args.definition = str(folder / "quick.yaml")
            Path(args.definition).write_text(QUICK)
        recipe_space = RecipeSpace.of(load_definition(args.definition))
        recipes = recipes_of(recipe_space, folder)
        warm_cache(recipes[0])
        together = seconds_of("sweep", args.definition, "--run-dir", str(folder / "sweep"))
        say(f"sweep: {together:.1f} s")
        alone = []
        for recipe in recipes:
            alone.append(seconds_of("train", str(recipe), "--run-dir", str(folder / recipe.stem)))
            say(f"trial {recipe.stem} alone: {alone[-1]:.1f} s")
    finish(
        "sweep_overhead",
        {
            "definition": recipe_space.definition.name,
            "trials": len(alone),
            "quick": args.quick,
            "ratio": together / sum(alone),
            "sweep_seconds": together,
            "train_seconds": alone,
        },
    )


if __name__ == "__main__":
    main()
