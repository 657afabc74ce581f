"""What the servers of benchmarks/serving.py serve: the students of a recipe, and its teacher as an ensemble of one.

Nobody trained either, which costs a server the same; or they are those of a run.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from msd_ray.conditions import Classes, PartitionConfig, fit
from msd_ray.ensemble import Member, Sampling, save_ensemble
from msd_ray.networks import DenoiserSpec
from msd_ray.runs.plan import Plan
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_directory import ensemble_folder
from msd_ray.storage import Store
from msd_ray.teachers.kept_teacher import KeptTeacher

STEPS = 18  # of Heun's method: 35 evaluations of the network


@dataclass(frozen=True)
class Served:
    """URIs of ensembles. students: in one step or as the recipe says. teacher: in 35 evaluations."""

    students: str
    teacher: str


def untrained(recipe: str, overrides: list[str], where: str, pixels: int = 0) -> Served:
    """Random weights of the sizes that a recipe asks for, saved below `where`. pixels: of the sides of RGB images that
    they make instead of those of the recipe."""
    plan = RunContext.of(recipe, overrides, None).plan
    if pixels:
        plan = replace(plan, student=replace(plan.student, sample_shape=(3, pixels, pixels)))
    partition = plan.ensembles[0].partition
    members = [
        Member(i, plan.student, plan.recipe.noise.sigma_init, 0, weights(plan.student, i)) for i in range(partition.k)
    ]
    save_ensemble(Store(f"{where}/students"), _name(plan), partition, plan.labels, members, plan.sampling)
    _save_teacher(plan, weights(plan.teacher, 0), f"{where}/teacher")
    return Served(f"{where}/students", f"{where}/teacher")


def trained(run: str, where: str) -> Served:
    """The ensemble of a run and its teacher, of which a copy is saved below `where`."""
    store = Store(run)
    plan = RunContext.of_run(store, []).plan
    _save_teacher(plan, KeptTeacher(store.child("teacher")).weights(), f"{where}/teacher")
    return Served(ensemble_folder(run).uri, f"{where}/teacher")


def weights(spec: DenoiserSpec, seed: int) -> dict[str, Tensor]:
    """None of a network's layers is zero, and no two seeds' are the same: equal students would be deployed once."""
    torch.manual_seed(seed)
    denoiser = spec.build().requires_grad_(False)
    for p in denoiser.parameters():
        p.add_(torch.randn_like(p), alpha=0.02)
    return denoiser.state_dict()


def _save_teacher(plan: Plan, state: dict[str, Tensor], where: str) -> None:
    noise, everything = plan.recipe.noise, fit(PartitionConfig(k=1), Classes.numbered(len(plan.labels)))
    member = Member(0, plan.teacher, noise.sigma_init, 0, state)
    save_ensemble(Store(where), _name(plan), everything, plan.labels, [member], Sampling("heun", STEPS, noise))


def _name(plan: Plan) -> dict[str, str]:
    return {"name": plan.recipe.name}
