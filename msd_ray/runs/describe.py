"""A plan in words and numbers."""

from typing import Any

from msd_ray.recipes import PoolConfig
from msd_ray.runs.plan import Job, Plan


def describe(plan: Plan) -> dict[str, Any]:
    """JSON-able facts: what trains where."""
    recipe, cluster, stages = plan.recipe, plan.cluster, plan.jobs[0].spec.stages
    return {
        "recipe": recipe.name,
        "teacher": f"{plan.teacher.parameters():,} parameters",
        "student": _parameters(plan),
        "partition": f"{recipe.partition.kind}, k = {recipe.partition.k}, timesteps = {recipe.partition.timesteps}",
        "stages": "; ".join(f"{name} ({s.objective}, {s.images:,} images)" for name, s in stages.items()),
        "student_actors": f"{len(plan.jobs)} x ({cluster.cpus_per_student:g} CPU, {cluster.gpus_per_student:g} GPU)",
        "teacher_actors": _replicas(cluster.pool)
        if cluster.teacher == "pool"
        else "none: the teacher runs in each student",
        "students": [_student(plan, job) for job in plan.jobs],
    }


def _parameters(plan: Plan) -> str:
    least, *more = sorted({job.spec.denoiser.parameters() for job in plan.jobs})
    return f"{least:,} to {more[-1]:,} parameters" if more else f"{least:,} parameters"


def _replicas(pool: PoolConfig) -> str:
    most = f" to {pool.max_replicas}" if pool.max_replicas > pool.min_replicas else ""
    return f"{pool.min_replicas}{most} x ({pool.cpus:g} CPU, {pool.gpus:g} GPU)"


def _student(plan: Plan, job: Job) -> dict[str, Any]:
    levels = f", sigma {job.spec.noise.sigma_min:.3g} to {job.spec.noise.sigma_max:.3g}"
    return {
        "student": job.name,
        "owns": " ".join(plan.labels[c] for c in job.spec.conditions)
        + (levels if plan.recipe.partition.timesteps > 1 else ""),
        "parameters": f"{job.spec.denoiser.parameters():,}",
        "images": f"{job.spec.images:,}",
    }
