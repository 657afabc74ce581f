"""Samples from an ensemble into a file."""

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from msd_ray.ensemble import Ensemble
from msd_ray.errors import UserError
from msd_ray.evaluation.tiles import sheet
from msd_ray.runs.directory import ensemble_folder
from msd_ray.runs.samplers import device_here
from msd_ray.storage import Store


def generate_file(
    uri: str,
    conditions: str,
    seeds: str,
    output: Path | None,
    sampler: str | None = None,
    steps: int | None = None,
) -> dict[str, Any]:
    """Every condition with every seed, as a .png sheet (a row per condition) or a .npy array [conditions, seeds, ...].

    output: samples.png, or samples.npy for points, where not given. sampler, steps: other than the ensemble's own.
    Returns facts about what was made. Raises UserError where an argument is wrong; then nothing is written.
    """
    if output and output.suffix not in (".png", ".npy"):
        raise UserError(f"{output}: samples are written as .png or .npy")
    ensemble = Ensemble.load(ensemble_folder(uri), device_here())
    wanted = numbers(conditions, "conditions") if conditions else list(range(len(ensemble.labels)))
    chosen = numbers(seeds, "seeds")
    of_points = len(ensemble.sample_shape) == 1
    output = output or Path("samples.npy" if of_points else "samples.png")
    if of_points and output.suffix == ".png":
        raise UserError("these samples are points, not images: write them as .npy")
    start = time.perf_counter()
    x = ensemble.generate([c for c in wanted for _ in chosen], chosen * len(wanted), sampler=sampler, steps=steps)
    seconds = time.perf_counter() - start
    x = x.reshape(len(wanted), len(chosen), *ensemble.sample_shape)
    Store(str(output.parent)).write(output.name, sheet(x) if output.suffix == ".png" else _npy(x))
    n, nfe = len(wanted) * len(chosen), ensemble.sampling.changed(sampler, steps).nfe
    return {
        "output": str(output),
        "samples": n,
        "shape": list(x.shape),
        "nfe": nfe,
        "ms_per_sample": 1000 * seconds / n,
    }


def _npy(x: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, x.numpy())
    return buffer.getvalue()


def numbers(text: str, what: str) -> list[int]:
    """ "0-2,5" -> [0, 1, 2, 5]. Raises UserError where the text is not of that form."""
    result: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            result += range(int(first), int(last) + 1) if dash else [int(first)]
    except ValueError:
        raise UserError(f"{what} {text!r} is not of the form 0-4,7") from None
    if not result:
        raise UserError(f"{what} {text!r} names nothing: the range is empty")
    return result
