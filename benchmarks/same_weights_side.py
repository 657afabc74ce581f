"""One side of same_weights.py: trains recipes, shortened, with whatever msd_ray it finds, all on one local Ray cluster.

Reads from standard input a line of JSON for each, {"recipe", "overrides", "run_dir"}, and answers with one:
{"weights": {file: {tensor: [dtype, shape, sha256]}}, "seconds", "unknown": overrides whose keys this side lacks}, or
{"error"}. It runs at commits whose modules have other names, so of msd_ray it uses only `load_recipe` and the command
line, and of a run directory only that weights are in safetensors files.
"""

import hashlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import torch
from safetensors import safe_open

from msd_ray.cli import main as msd_ray_command
from msd_ray.errors import UserError
from msd_ray.recipes import load_recipe

COMMON = (
    "teacher.images=512",
    "teacher.batch=64",
    "teacher.warmup=128",
    "pairs=64",
    "training.log_every=16",
    "training.checkpoint_every=32",
    "training.keep=100",
    "evaluation.also=[]",
    "evaluation.features=identity",
    "evaluation.samples=16",
    "evaluation.curve_samples=8",
    "evaluation.kid_subsets=2",
    "evaluation.preview_every=1_000_000",
    "evaluation.cpus=2.5",
    "cluster.max_slots=1",
)
"""With one process to train and one to measure, since starting them takes longer than all else."""
STAGE = ("batch=16", "images=64", "warmup=32")
"""Four updates, with a checkpoint after two."""
_GAN_LATER = ("fake_first=16", "options.gan_from=32")
OF_OBJECTIVE = {"sida": _GAN_LATER, "uni-instruct": _GAN_LATER, "gdd": ("options.r1_every=2",)}
"""What would not take part in four updates otherwise."""


def shortened(recipe: str) -> list[str]:
    """Overrides that make a recipe short, and let every term of its losses take part."""
    stages = load_recipe(recipe).stages.items()
    short = [f"stages.{name}.{value}" for name, s in stages for value in (*OF_OBJECTIVE.get(s.objective, ()), *STAGE)]
    return [*short, *COMMON]


def divided(recipe: str, overrides: list[str]) -> tuple[list[str], list[str]]:
    """The overrides that this side's recipes can have, and those whose keys it does not know."""
    known, unknown = list[str](), list[str]()
    for override in overrides:
        try:
            load_recipe(recipe, [*known, override])
        except UserError as error:
            (unknown if "unknown key" in str(error) else known).append(override)
        else:
            known.append(override)
    return known, unknown


def weights(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Of all files of weights, by what they are of."""
    paths = sorted(run_dir.rglob("*.safetensors"))
    found = {label(path.relative_to(run_dir)): dict(tensors(path)) for path in paths}
    if len(found) < len(paths):
        raise ValueError(f"two files of weights in {run_dir} cannot be told apart: {', '.join(map(str, paths))}")
    return found


def label(path: Path) -> str:
    """The same whatever folders are called: students/0001/ckpt-000000000064/ema.safetensors is "ema 1 64"."""
    numbers = [int(number) for number in re.findall(r"\d+", str(path))]
    kind = path.stem if len(path.parts) > 2 else path.parts[0]
    return " ".join([kind, *map(str, numbers)])


def tensors(path: Path) -> Iterator[tuple[str, list[Any]]]:
    """Name, dtype, shape and the sha256 of the bytes of each tensor of a file."""
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118
            tensor = file.get_tensor(name)
            content = tensor.contiguous().flatten().view(torch.uint8).numpy()
            yield name, [str(tensor.dtype), list(tensor.shape), hashlib.sha256(content).hexdigest()]


def train(recipe: str, overrides: list[str], run_dir: str) -> dict[str, Any]:
    """What came of one recipe."""
    begin = time.monotonic()
    known, unknown = divided(recipe, [*shortened(recipe), *overrides])
    sys.argv = ["msd-ray", "train", recipe, *known, "--run-dir", run_dir]
    try:
        msd_ray_command()
    except SystemExit as end:
        if end.code:
            return {"error": f"`{' '.join(sys.argv)}` ended with exit code {end.code}"}
    if not (found := weights(Path(run_dir))):
        return {"error": f"there are no safetensors files in {run_dir}"}
    return {"weights": found, "seconds": time.monotonic() - begin, "unknown": unknown}


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the command prints is no answer
    ray.init("local", num_cpus=4, include_dashboard=False, logging_level=logging.ERROR)
    for line in sys.stdin:
        print(json.dumps(train(**json.loads(line))), file=answers, flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
