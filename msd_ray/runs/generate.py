"""Samples from an ensemble into a file."""

import io
import math
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from msd_ray.codecs import pictures
from msd_ray.conditions import Condition, Conditions
from msd_ray.ensemble import Ensemble
from msd_ray.ensemble.requests import asked_of
from msd_ray.errors import UserError
from msd_ray.evaluation.tiles import sheet
from msd_ray.formatting import duration, size
from msd_ray.runs.run_directory import ensemble_folder
from msd_ray.runs.sample_sources import device_here
from msd_ray.storage import Store, refuse_unwritable
from msd_ray.validation import shortened

Note = Callable[[str], None]
MOST_SAMPLES, PORTION = 1_000_000, 4096
SAY_EVERY = 10.0
"""Seconds between two progress notes."""


def generate_file(
    uri: str,
    conditions: str,
    seeds: str,
    output: Path | None,
    sampler: str | None = None,
    steps: int | None = None,
    note: Note = lambda line: None,
    prompts: Sequence[str] = (),
    guidance: float | None = None,
) -> dict[str, Any]:
    """Every condition with every seed, as a .png sheet (a row per condition) or a .npy array [conditions, seeds, ...].

    output: by default samples.png, or samples.npy for points. sampler, steps, guidance: other than the ensemble's own.
    note: takes a progress line now and then. prompts: what to make in words, instead of `conditions`. Returns facts
    about the samples, and which students make each condition, by what margin. Raises UserError if an argument is wrong;
    then nothing is written.
    """
    if prompts and conditions:
        raise UserError("--prompt says in words what --conditions says by number: give one of them")
    if output and re.match(r"[a-z0-9]+:/", str(output)):
        raise UserError(f"-o {output}: samples are written to a file on this machine; copy it where it shall be")
    if output and output.suffix not in (".png", ".npy"):
        raise UserError(f"{output}: samples are written as .png or .npy")
    chosen = numbers(seeds, "seeds")
    listed = numbers(conditions, "conditions") if re.fullmatch(r"[-\d,\s]+", conditions) else None
    ensemble = Ensemble.load(ensemble_folder(uri), device_here())
    asked = _asked(conditions, prompts, ensemble.conditions) if listed is None else listed
    wanted = asked_of(ensemble.conditions, asked)
    places = ensemble.partition.place(ensemble.conditions, wanted)
    refuse_many(len(wanted) * len(chosen), ensemble.sample_shape)
    has_pictures = ensemble.codec.picture_shape(ensemble.sample_shape) is not None
    output = output or Path("samples.png" if has_pictures else "samples.npy")
    if not has_pictures and output.suffix == ".png":
        raise UserError("these samples have no pictures: write them as .npy")
    place = Store(str(output.parent))
    refuse_unwritable(place, "give another place with -o")
    start = time.perf_counter()
    make = partial(ensemble.generate, sampler=sampler, steps=steps, guidance=guidance)
    x = _made(make, ensemble.sample_shape, [(c, seed) for c in wanted for seed in chosen], note)
    seconds = time.perf_counter() - start
    x = x.reshape(len(wanted), len(chosen), *ensemble.sample_shape)
    place.write(output.name, sheet(pictures(ensemble.codec, x)) if output.suffix == ".png" else _npy(x))
    n, nfe = len(wanted) * len(chosen), ensemble.sampling.changed(sampler, steps, ensemble.partition).nfe
    return {
        "output": str(output),
        "samples": n,
        "shape": list(x.shape),
        "nfe": nfe,
        "ms_per_sample": 1000 * seconds / n,
        "conditions": [
            {"asked": condition, "students": list(ensemble.partition.students_of(place.part)), "margin": place.margin}
            for condition, place in zip(wanted, places, strict=True)
        ],
    }


def _made(
    make: Callable[..., Tensor], shape: tuple[int, ...], pairs: Sequence[tuple[Condition, int]], note: Note
) -> Tensor:
    """[N, ...] samples of the pairs of condition and seed. They have the same bits whatever the size of a portion."""
    out = torch.empty(len(pairs), *shape)
    begin = said = time.monotonic()
    for first in range(0, len(pairs), PORTION):
        conditions, seeds = zip(*pairs[first : first + PORTION], strict=True)
        out[first : first + PORTION] = make(conditions, seeds)
        made, now = first + len(seeds), time.monotonic()
        if now - said > SAY_EVERY and made < len(pairs):
            said, left = now, (now - begin) / made * (len(pairs) - made)
            note(f"{made:,} of {len(pairs):,} samples, about {duration(left)} left")
    return out


def refuse_many(samples: int, shape: tuple[int, ...] = ()) -> None:
    """Raises UserError for more samples than one command makes, or than fit into memory three times: as an array, as a
    file, and on the way from one to the other."""
    if samples > MOST_SAMPLES:
        raise UserError(
            f"{samples:,} samples are more than one command makes: at most {MOST_SAMPLES:,}; give several commands"
        )
    needed, free = 3 * 4 * samples * math.prod(shape), psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"{samples:,} samples need {size(needed)} of memory, {size(free)} are free; give several commands"
        )


def _npy(x: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, x.numpy())
    return buffer.getvalue()


def _asked(text: str, prompts: Sequence[str], conditions: Conditions) -> list[Condition]:
    """The prompts, or "cat, dog" -> their ids; all where neither is given. Raises UserError for a label that there is
    not."""
    if conditions.is_open and not prompts:
        raise UserError("these students make what words ask for: say what, with --prompt TEXT")
    if not text and not prompts:
        return list(range(conditions.n))
    return [conditions.id_of(each) for each in prompts or map(str.strip, text.split(","))]


def numbers(text: str, what: str) -> list[int]:
    """ "0-2,5" -> [0, 1, 2, 5]. Raises UserError where the text is not of that form."""
    result: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            begin, end = int(first), int(last if dash else first)
            refuse_many(len(result) + end - begin + 1)
            result += range(begin, end + 1)
    except ValueError:
        raise UserError(f"{what} {shortened(text)} is not of the form 0-4,7") from None
    if not result:
        raise UserError(f"{what} {text!r} names nothing: the range is empty")
    return result
