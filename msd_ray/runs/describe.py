"""A plan in words and numbers, with an estimate of its time measured on this machine."""

import time
from dataclasses import replace
from typing import Any

import torch

from msd_ray.data import Samples
from msd_ray.diffusion import EDMDenoiser
from msd_ray.objectives import Pairs
from msd_ray.runs.plan import Job, Plan
from msd_ray.teachers import LocalTeacher
from msd_ray.training.student import Extras, StudentTrainer

TOO_SLOW_TO_TRY = 20_000_000  # parameters, on a CPU


def describe(plan: Plan) -> dict[str, Any]:
    """JSON-able facts: what trains where, and about how long."""
    recipe, cluster = plan.recipe, plan.cluster
    seconds = _seconds_per_student(plan)
    return {
        "recipe": recipe.name,
        "teacher": f"{plan.teacher.parameters():,} parameters",
        "student": f"{plan.student.parameters():,} parameters",
        "partition": f"{recipe.partition.kind}, k = {recipe.partition.k}, timesteps = {recipe.partition.timesteps}",
        "stages": "; ".join(f"{name} ({s.objective}, {s.images:,} images)" for name, s in recipe.stages.items()),
        "student_actors": f"{len(plan.jobs)} x ({cluster.cpus_per_student:g} CPU, {cluster.gpus_per_student:g} GPU)",
        "teacher_actors": f"{cluster.pool_size} x ({cluster.pool_cpus:g} CPU, {cluster.pool_gpus:g} GPU)"
        if cluster.teacher == "pool"
        else "none: the teacher runs in each student",
        "estimated_seconds_per_student": None if seconds is None else round(seconds),
        "estimate": "measured with one update of each stage, one student alone on this machine, teacher included"
        if seconds is not None
        else "none: the network is too large to try on this machine",
        "students": [_student(plan, job) for job in plan.jobs],
    }


def _student(plan: Plan, job: Job) -> dict[str, Any]:
    levels = f", sigma {job.spec.noise.sigma_min:.3g} to {job.spec.noise.sigma_max:.3g}"
    return {
        "student": job.name,
        "owns": " ".join(plan.labels[c] for c in job.spec.conditions)
        + (levels if plan.recipe.partition.timesteps > 1 else ""),
        "parameters": f"{job.spec.denoiser.parameters():,}",
        "images": f"{job.spec.images:,}",
    }


def _seconds_per_student(plan: Plan) -> float | None:
    """Wall time of one whole student on this machine's device, from one update of each stage after a first."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and plan.student.parameters() > TOO_SLOW_TO_TRY:
        return None
    job = plan.groups[0].jobs[0]
    teacher = plan.teacher.build().eval().requires_grad_(False).to(device)
    n = max(stage.batch for stage in plan.recipe.stages.values())
    real = Samples(torch.zeros(n, *plan.student.sample_shape), torch.full((n,), job.spec.conditions[0]))
    threads = torch.get_num_threads()
    torch.set_num_threads(job.spec.training.threads)
    try:
        return sum(_stage_seconds(job, name, teacher, real, device) for name in job.spec.stages)
    finally:
        torch.set_num_threads(threads)


def _stage_seconds(job: Job, name: str, teacher: EDMDenoiser, real: Samples, device: torch.device) -> float:
    stage = job.spec.stages[name]
    spec = replace(job.spec, stages={name: replace(stage, images=2 * stage.batch)})
    z = torch.zeros(1, *spec.denoiser.sample_shape, device=device)
    extras = Extras(encoder=teacher, pairs=Pairs(z, z, torch.zeros(1, dtype=torch.long, device=device)))
    trainer = StudentTrainer(spec, LocalTeacher(teacher), None, real, device, extras)
    trainer.advance(stage.batch)
    start = time.perf_counter()
    trainer.advance(stage.batch)
    return (time.perf_counter() - start) * stage.images / stage.batch
