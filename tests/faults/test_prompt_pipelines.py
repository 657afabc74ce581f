"""Tiny pipelines of diffusers as guided teachers in the pool: their students of prompts survive kill -9, of processes
and of the command, bit for bit, and stock diffusers makes their samples."""

import random
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msd_ray.codecs import load_codec
from msd_ray.ensemble import Ensemble, read_description, read_member
from msd_ray.export import export
from msd_ray.runs.generate import generate_file
from msd_ray.runs.run_context import RunContext

from ..export.distilled import as_the_card_says
from ..pipelines import arguments, write_stable_diffusion
from ..transformer_pipelines import FAMILIES, of_family
from .test_converted_teacher import trained_here
from .test_kills import Assassin, kill_while_students_train

diffusers = pytest.importorskip("diffusers")
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("cluster")]
PROMPTS = ("a red car", "dog", "jjjjjjj", "aaaaaaa", "bbbbbbb", "ddddddd", "a cat with a hat", "ccccccc")
"""Some in each quadrant."""
RATES = {"images": 16, "batch": 2, "shared": False, "generator_lr": 1e-3, "fake_lr": 1e-3, "warmup": 0}
SETTING: dict[str, Any] = {
    "stages": {
        "tsm": {"objective": "tsm", **RATES},
        "dm": {"objective": "dm", "fake_steps": 2, **RATES},
        "adm": {"objective": "adm", "fake_steps": 2, **RATES},
    },
    "training": {"ema": {"halflife": 16}, "log_every": 8, "checkpoint_every": 8},
    "cluster": {"pool": {"cpus": 0.2}, "cpus_per_student": 0.2, "max_slots": 2, "max_failures": 50},
    "evaluation": {"features": "identity", "samples": 16, "curve_samples": 4, "kid_subsets": 2, "cpus": 0.2},
}
PIPELINES: dict[str, tuple[Callable[[Path], Any], Callable[..., list[str]], str]] = {
    "epsilon": (write_stable_diffusion, arguments, "quadrants"),
    "v-prediction": (partial(write_stable_diffusion, prediction="v_prediction"), arguments, "quadrants"),
    "sd3": (FAMILIES["sd3"][0], partial(of_family, "sd3"), "kmeans"),
    "sdxl": (FAMILIES["sdxl"][0], partial(of_family, "sdxl"), "kmeans"),
    "pixart": (FAMILIES["pixart"][0], partial(of_family, "pixart"), "quadrants"),
}
"""How each is written, the recipe of it, and how its prompts are divided."""
STUDENT = 2
"""Which is exported."""


def overrides_for(family: str, folder: Path) -> list[str]:
    write, overrides, kind = PIPELINES[family]
    write(folder)
    return overrides(folder, prompts=PROMPTS, partition={"k": 4, "kind": kind}, **SETTING)


def kill_the_command(overrides: list[str], run_dir: Path, times: int) -> None:
    command = [sys.executable, "-m", "msd_ray", "train", "digits", *overrides, "--run-dir", str(run_dir), "--json"]
    rng = random.Random(0)
    for _ in range(times):
        kill_while_students_train(command, rng.uniform(0, 0.6))
        assert not (run_dir / "ensemble" / "manifest.json").exists()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("family", "commands", "moments"),
    [
        pytest.param("epsilon", 0, 1, id="short"),
        *(pytest.param(family, 2, 3, id=family, marks=pytest.mark.nightly) for family in PIPELINES),
    ],
)
def test_four_students_end_as_if_undisturbed_and_stock_diffusers_loads_them(
    family: str, commands: int, moments: int, tmp_path: Path
) -> None:
    from msd_ray.cluster.train import train

    overrides = overrides_for(family, tmp_path / "pipeline")
    run = RunContext.of("digits", overrides, str(tmp_path / "run"))
    kill_the_command(overrides, tmp_path / "run", commands)
    assassin = Assassin(moments, sum(student.spec.images for student in run.plan.students))
    train(run.plan, run.store, run.cache, None, assassin)
    assert len(assassin.killers) == 2 * moments and all(killer.victim for killer in assassin.killers)
    known = read_description(run.store.child("ensemble"))
    assert len(run.plan.students) == known.partition.k == 4 and run.plan.cluster.teacher == "pool"
    for i in range(4):
        weights, expected = read_member(known, i).read(), trained_here(run, i)
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], value) for name, value in expected.items())
    check_export(run, tmp_path)
    check_routed_export(run, tmp_path / "whole")


def check_export(run: RunContext, folder: Path) -> None:
    """Stock diffusers makes the latents and the pictures that `generate` makes of a student's own prompts."""
    ids = run.plan.ensembles[0].partition.owned_by(STUDENT, run.plan.conditions).ids.tolist()
    asked, out, file = run.plan.conditions.labels(ids), folder / "out", folder / "made.npy"
    export(run.store.uri, "diffusers", STUDENT, out)
    made = generate_file(run.store.uri, "", "5", file, prompts=asked)
    assert all(each["students"] == [STUDENT] for each in made["conditions"])
    ours = torch.from_numpy(np.load(file))[:, 0]
    pipeline = diffusers.DiffusionPipeline.from_pretrained(out, local_files_only=True)
    call = partial(as_the_card_says, pipeline, out, asked, [5] * len(asked))
    pictures = load_codec(run.recipe.codec).to_pixels(ours) / 2 + 0.5
    for form, expected in (("latent", ours), ("pt", pictures)):
        size = float(expected.abs().max().clamp(min=1))  # PixArt's latents here are as large as 500
        torch.testing.assert_close(call(output_type=form) / size, expected / size, rtol=0, atol=1e-5)


def check_routed_export(run: RunContext, out: Path) -> None:
    """The pipeline of all students gives each prompt to the one that `generate` gives it to."""
    from msd_ray.export.ensemble_pipeline import EnsemblePipeline

    export(run.store.uri, "diffusers", None, out)
    asked, seeds = [*PROMPTS, "nobody has trained on this"], range(9)
    expected = Ensemble.load(run.store.child("ensemble")).generate(asked, seeds)
    made = EnsemblePipeline.from_pretrained(out, local_files_only=True)(asked, seeds=seeds, output_type="pt").images
    size = float(expected.abs().max().clamp(min=1))
    torch.testing.assert_close(made / size, expected / size, rtol=0, atol=1e-5)
