"""A plan in words."""

from typing import Any

from msd_ray.conditions import named
from msd_ray.recipes import PoolConfig
from msd_ray.runs.plan import EnsemblePlan, Plan, StudentPlan
from msd_ray.training.config import StageConfig

SHOWN = 10
"""Conditions of a student that are named, before the rest is only counted."""


def describe(plan: Plan) -> dict[str, Any]:
    """The plan as facts for JSON."""
    recipe, cluster = plan.recipe, plan.cluster
    return {
        "recipe": recipe.name,
        "teacher": _teacher(plan),
        "student": _parameters(plan),
        "partition": f"{recipe.partition.kind}, k = {recipe.partition.k}, timesteps = {recipe.partition.timesteps}",
        "stages": "; ".join(_stage(name, stage) for name, stage in plan.first.stages.items()),
        "student_actors": f"{len(plan.students)} x {_each(cluster.cpus_per_student, cluster.gpus_per_student)}",
        "teacher_actors": _replicas(cluster.pool)
        if cluster.teacher == "pool"
        else "none: the teacher runs in each student",
        "students": [
            _student(plan, ensemble, student)
            for ensemble in plan.ensembles
            for student in (*ensemble.trunks, *ensemble.students)
        ],
    }


def _stage(name: str, stage: StageConfig) -> str:
    groups = {0: "", 1: ", shared"}.get(stage.groups, f", shared by {stage.groups} groups")
    return f"{name} ({stage.objective}, {stage.images:,} images{groups})"


def _teacher(plan: Plan) -> str:
    origin = f", from {plan.recipe.teacher.source}" if plan.source else ""
    blind = "; its operations and memory are not counted" if plan.source and not plan.source.spec else ""
    return f"{plan.teachers_parameters:,} parameters{origin}{blind}"


def _parameters(plan: Plan) -> str:
    least, *more = sorted({student.spec.denoiser.parameters() for student in plan.students})
    return f"{least:,} to {more[-1]:,} parameters" if more else f"{least:,} parameters"


def _replicas(pool: PoolConfig) -> str:
    most = f" to {pool.max_replicas}" if pool.max_replicas > pool.min_replicas else ""
    return f"{pool.min_replicas}{most} x {_each(pool.cpus, pool.gpus)}"


def _each(cpus: float, gpus: float) -> str:
    return f"({cpus:g} CPU, {gpus:g} GPU)"


def _student(plan: Plan, ensemble: EnsemblePlan, student: StudentPlan) -> dict[str, Any]:
    spec, trunk = student.spec, student.trunk
    levels = f", sigma {spec.noise.sigma_min:.3g} to {spec.noise.sigma_max:.3g}"
    ids = ensemble.partition.owned_by_parts(student.parts, plan.conditions).ids.tolist()
    return {
        "student": student.name,
        "owns": named(plan.conditions.labels(ids), SHOWN) + (levels if plan.recipe.partition.timesteps > 1 else ""),
        "parameters": f"{spec.denoiser.parameters():,}",
        "images": f"{spec.images:,}" + (f" ({spec.begins:,} of them in the {trunk.name})" if trunk else ""),
    }
