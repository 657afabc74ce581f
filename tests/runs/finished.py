"""Runs as `train` leaves them, with random weights: nobody had to learn anything."""

from pathlib import Path

import torch

from msd_ray.networks import DenoiserSpec
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_directory import assemble, folder, has_ensemble, keep_recipe
from msd_ray.runs.teacher_cache import keep_teacher
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.state import State, Tensors

TINY = str(Path(__file__).parents[1] / "faults" / "tiny.yaml")


def weights(spec: DenoiserSpec, seed: int) -> Tensors:
    torch.manual_seed(seed)
    return {name: 0.1 * torch.randn_like(value) for name, value in spec.build().state_dict().items()}


def finished(run_dir: Path, overrides: list[str], recipe: str = TINY) -> RunContext:
    """A run as `train` leaves it before it evaluates, but nobody has learnt anything."""
    context = RunContext.of(recipe, overrides, str(run_dir))
    plan, store = context.plan, context.store
    keep_recipe(store, plan.recipe)
    facts = {"nimg": 6400, "wall_seconds": 1.0, "cpu_seconds": 1.0}
    keep_teacher(
        store.child("teacher"), plan.teacher, State({"ema": weights(plan.teacher, 99)}, facts), plan.conditions_spec
    )
    for seed, student in enumerate(plan.students):
        logged = [["kd", student.spec.images, name, 2.0] for name in ("wall_seconds", "cpu_seconds", "output_kd")]
        meta = {"nimg": student.spec.images, "metrics": logged}
        Checkpoints(folder(store, student.directory), 1).save(
            State({"ema": weights(student.spec.denoiser, seed)}, meta)
        )
    for ensemble in plan.ensembles:
        assemble(store, plan, ensemble)
        assert has_ensemble(store, ensemble)
    return context
